//! The query string of a list: pages, search, ordering and filters, and the links between pages.
//!
//! Behaves as DRF's `PageNumberPagination`, `SearchFilter` and `OrderingFilter` and as
//! django-filter, with one exception: a filter with a fraction is compared as the number it is
//! (`price__gte=9.5` does not find 9).

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::Uri;
use axum::http::request::Parts;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::Ref;
use utoipa::openapi::schema::Array;

use crate::drf::decimal::{Decimal, NotANumber};
use crate::drf::python;
use crate::drf::search;
use crate::error::{ApiError, FieldErrors, sentences};
use crate::forwarding::Forwarding;
use crate::storage::{Column, Comparison, Direction, Filter, ProductQuery};

const DEFAULT_PAGE_SIZE: i64 = 20;
const MAX_PAGE_SIZE: i64 = 100;

/// Bounds on a search. A database cannot take much more in one statement: SQLite stops at 1000
/// nested conditions and at patterns of 50,000 bytes.
const MAX_TERMS: usize = 100;
const MAX_SEARCH_BYTES: usize = 10_000;

/// The parameters of a list.
pub(crate) struct ListQuery {
    /// In the order of the query string. If a parameter is repeated, the last one counts.
    parameters: Vec<(String, String)>,
    uri: Uri,
    /// URL of `/`, without the trailing slash.
    base_url: String,
}

/// A page of a list.
#[derive(Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// Number of items on all pages.
    #[schema(minimum = 0)]
    count: i64,
    /// URL of the next page, if there is one.
    #[schema(format = "uri")]
    next: Option<String>,
    /// URL of the previous page, if there is one.
    #[schema(format = "uri")]
    previous: Option<String>,
    #[schema(schema_with = array_of::<T>)]
    results: Vec<T>,
}

/// Refers to the schema of the items by name. The derive would repeat it in every page.
fn array_of<T: ToSchema>() -> Array {
    Array::new(Ref::from_schema_name(T::name()))
}

/// Which items of a list a page shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageRange {
    number: i64,
    last: i64,
    size: i64,
}

impl PageRange {
    pub(crate) fn limit(self) -> i64 {
        self.size
    }

    pub(crate) fn offset(self) -> i64 {
        (self.number - 1) * self.size
    }
}

impl<S: Sync> FromRequestParts<S> for ListQuery
where
    Arc<Forwarding>: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let base_url = Arc::from_ref(state).base_url(parts).into_owned();
        Ok(Self::new(parts.uri.clone(), base_url))
    }
}

impl ListQuery {
    fn new(uri: Uri, base_url: String) -> Self {
        let query = uri.query().unwrap_or_default();
        Self {
            parameters: form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
            uri,
            base_url,
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.parameters.iter().rev().filter(|(key, _)| key == name);
        named.next().map(|(_, value)| &**value)
    }

    /// Returns which products to list, in which order.
    pub(crate) fn selection(&self) -> Result<ProductQuery, ApiError> {
        Ok(ProductQuery {
            filters: self.filters()?,
            terms: self.search_terms()?,
            order: self.get("ordering").map(ordering).unwrap_or_default(),
        })
    }

    fn search_terms(&self) -> Result<Vec<String>, ApiError> {
        let search = self.get("search").unwrap_or_default();
        if search.contains('\0') {
            return Err(ApiError::messages(vec![sentences::NULL_CHARACTERS]));
        }
        let terms = search::terms(search);
        if search.len() > MAX_SEARCH_BYTES || terms.len() > MAX_TERMS {
            return Err(ApiError::messages(vec![sentences::SEARCH_TOO_LONG]));
        }
        Ok(terms)
    }

    fn filters(&self) -> Result<Vec<Filter>, ApiError> {
        let mut filters = Vec::new();
        let mut errors = FieldErrors::new();
        for (field, column) in [("price", Column::Price), ("stock", Column::Stock)] {
            for (suffix, comparison) in [
                ("", Comparison::Equal),
                ("__gt", Comparison::Greater),
                ("__gte", Comparison::GreaterOrEqual),
                ("__lt", Comparison::Less),
                ("__lte", Comparison::LessOrEqual),
            ] {
                let name = format!("{field}{suffix}");
                let text = self.get(&name).unwrap_or_default();
                if text.is_empty() {
                    continue;
                }
                match Decimal::parse(text) {
                    Ok(number) => filters.push(filter(column, comparison, number)),
                    Err(error) => {
                        let message = match error {
                            NotANumber::Malformed => sentences::NOT_A_NUMBER,
                            NotANumber::TooLarge => sentences::FILTER_TOO_GREAT,
                        };
                        errors.push((name, vec![message]));
                    }
                }
            }
        }
        if errors.is_empty() {
            Ok(filters)
        } else {
            Err(ApiError::invalid(errors))
        }
    }

    /// Returns which of `count` items the requested page shows.
    pub(crate) fn range(&self, count: i64) -> Result<PageRange, ApiError> {
        let size = match self.get("page_size").and_then(python::int) {
            Some(size) if size > 0 => size.min(MAX_PAGE_SIZE),
            _ => DEFAULT_PAGE_SIZE,
        };
        // A list without items has one page, which is empty.
        let last = ((count + size - 1) / size).max(1);
        let number = match self.get("page") {
            None | Some("") => 1,
            Some("last") => last,
            Some(text) => python::int(text).ok_or_else(ApiError::invalid_page)?,
        };
        if !(1..=last).contains(&number) {
            return Err(ApiError::invalid_page());
        }
        Ok(PageRange { number, last, size })
    }

    /// Builds the page that shows `results`, with links to its neighbours.
    pub(crate) fn page<T>(&self, range: PageRange, count: i64, results: Vec<T>) -> Page<T> {
        let has_next = range.number < range.last;
        let has_previous = range.number > 1;
        Page {
            count,
            next: has_next.then(|| self.link(range.number + 1)),
            previous: has_previous.then(|| self.link(range.number - 1)),
            results,
        }
    }

    /// Returns the URL of another page.
    fn link(&self, number: i64) -> String {
        let (base_url, path) = (&self.base_url, self.uri.path());
        let query = self.with_page(number);
        let separator = if query.is_empty() { "" } else { "?" };
        format!("{base_url}{path}{separator}{query}")
    }

    /// Returns the query string of another page: the same parameters, sorted by name. The first
    /// page needs no number.
    fn with_page(&self, number: i64) -> String {
        let mut pairs = self
            .parameters
            .iter()
            .filter(|(name, _)| name != "page")
            .map(|(name, value)| (&**name, Cow::Borrowed(&**value)))
            .collect::<Vec<_>>();
        if number > 1 {
            pairs.push(("page", number.to_string().into()));
        }
        pairs.sort_by_key(|(name, _)| *name);
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(pairs);
        // Python's urlencode does not escape the tilde, and writes the asterisk as %2A.
        query.finish().replace("%7E", "~").replace('*', "%2A")
    }
}

fn filter(column: Column, comparison: Comparison, number: Decimal) -> Filter {
    // An integer x and a number with a fraction: x > 9.5 is x > 9, x >= 9.5 is x > 9 as well,
    // x < 9.5 is x <= 9, and no x equals 9.5.
    let (comparison, value) = match (comparison, number.has_fraction) {
        (comparison, false) => (comparison, number.floor),
        (Comparison::Greater | Comparison::GreaterOrEqual, true) => {
            (Comparison::Greater, number.floor)
        }
        (Comparison::Less | Comparison::LessOrEqual, true) => {
            (Comparison::LessOrEqual, number.floor)
        }
        // Prices and stocks are never negative.
        (Comparison::Equal, true) => (Comparison::Equal, -1),
    };
    Filter {
        column,
        comparison,
        value,
    }
}

fn ordering(text: &str) -> Vec<(Column, Direction)> {
    let mut ordering = Vec::new();
    for term in text.split(',') {
        let term = python::strip(term);
        let (name, direction) = match term.strip_prefix('-') {
            Some(name) => (name, Direction::Descending),
            None => (term, Direction::Ascending),
        };
        let column = match name {
            "id" => Column::Id,
            "name" => Column::Name,
            "price" => Column::Price,
            "stock" => Column::Stock,
            "version" => Column::Version,
            "created_at" => Column::CreatedAt,
            "updated_at" => Column::UpdatedAt,
            // Ignored, as in DRF.
            _ => continue,
        };
        // A second term of a column orders nothing, and a database rejects a thousand of them.
        if ordering.iter().all(|(earlier, _)| *earlier != column) {
            ordering.push((column, direction));
        }
    }
    ordering
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(query: &str) -> Result<ProductQuery, ApiError> {
        let uri = format!("/?{query}").parse().unwrap();
        ListQuery::new(uri, String::new()).selection()
    }

    #[test]
    fn a_column_orders_only_once() {
        let order = selection("ordering=-price,nonsense,price,id,-id,-price").unwrap();
        let expected = [
            (Column::Price, Direction::Descending),
            (Column::Id, Direction::Ascending),
        ];
        assert_eq!(order.order, expected);
    }

    #[test]
    fn a_search_is_bounded() {
        let longest = selection(&format!("search={}", "a+".repeat(MAX_TERMS))).unwrap();
        assert_eq!(longest.terms.len(), MAX_TERMS);
        assert!(selection(&format!("search={}", "a+".repeat(MAX_TERMS + 1))).is_err());
        assert!(selection(&format!("search={}", "a".repeat(MAX_SEARCH_BYTES))).is_ok());
        assert!(selection(&format!("search={}", "a".repeat(MAX_SEARCH_BYTES + 1))).is_err());
    }
}
