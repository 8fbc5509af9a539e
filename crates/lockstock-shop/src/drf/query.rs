//! The list's query string: pages, search, ordering and filters, and the links between
//! pages. What DRF's `PageNumberPagination`, `SearchFilter`, `OrderingFilter` and
//! django-filter make of it, with one exception: a bound with a fraction is compared as the
//! number it is (`price__gte=9.5` does not find 9).

use std::borrow::Cow;

use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};
use serde_json::{Map, Value, json};

use crate::drf::decimal::{Decimal, NotANumber};
use crate::drf::python;
use crate::drf::search;
use crate::error::Refusal;
use crate::storage::{Column, Comparison, Direction, Filter, ProductQuery};

const PAGE_SIZE: i64 = 20;
const MOST_PAGE_SIZE: i64 = 100;

/// More would be more than a database takes in one statement (SQLite stops at 1000 nested
/// conditions and at patterns of 50,000 bytes), and is nothing that anybody searches for.
const MOST_TERMS: usize = 100;
const MOST_SEARCH_BYTES: usize = 10_000;

/// The parameters of a query string, in order. Of a repeated one the last counts.
pub(crate) struct Parameters<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Parameters<'a> {
    pub(crate) fn of(uri: &'a Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        Self(form_urlencoded::parse(query.as_bytes()).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().rev().filter(|(key, _)| key == name);
        named.next().map(|(_, value)| &**value)
    }

    /// Which products, in which order.
    pub(crate) fn selection(&self) -> Result<ProductQuery, Refusal> {
        Ok(ProductQuery {
            filters: self.bounds()?,
            terms: self.terms()?,
            order: self.get("ordering").map(order).unwrap_or_default(),
        })
    }

    fn terms(&self) -> Result<Vec<String>, Refusal> {
        let search = self.get("search").unwrap_or_default();
        if search.contains('\0') {
            return Err(Refusal::sentences(vec!["Null characters are not allowed."]));
        }
        let terms = search::terms(search);
        if search.len() > MOST_SEARCH_BYTES || terms.len() > MOST_TERMS {
            return Err(Refusal::sentences(vec!["The search is too long."]));
        }
        Ok(terms)
    }

    fn bounds(&self) -> Result<Vec<Filter>, Refusal> {
        let mut bounds = Vec::new();
        let mut errors = Map::new();
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
                    Ok(number) => bounds.push(bound(column, comparison, number)),
                    Err(why) => {
                        let why = match why {
                            NotANumber::Malformed => "Enter a number.",
                            NotANumber::TooLarge => {
                                "Ensure this value is less than or equal to 1e+50."
                            }
                        };
                        errors.insert(name, json!([why]));
                    }
                }
            }
        }
        if errors.is_empty() {
            Ok(bounds)
        } else {
            Err(Refusal::invalid(errors))
        }
    }

    /// Which of `count` products to show.
    pub(crate) fn page(&self, count: i64) -> Result<Page, Refusal> {
        let size = match self.get("page_size").and_then(python::int) {
            Some(size) if size > 0 => size.min(MOST_PAGE_SIZE),
            _ => PAGE_SIZE,
        };
        // No products make one page, an empty one.
        let last = ((count + size - 1) / size).max(1);
        let number = match self.get("page") {
            None | Some("") => 1,
            Some("last") => last,
            Some(text) => python::int(text).ok_or_else(Refusal::no_page)?,
        };
        if !(1..=last).contains(&number) {
            return Err(Refusal::no_page());
        }
        Ok(Page { number, last, size })
    }

    /// The page's body: counts, links, and the products.
    pub(crate) fn answer(
        &self,
        page: Page,
        count: i64,
        results: Vec<Value>,
        headers: &HeaderMap,
        path: &str,
    ) -> Value {
        let host = headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            // What is no host would make the link something else.
            .filter(|host| host.parse::<Authority>().is_ok() && !host.contains('@'))
            .unwrap_or("localhost");
        let link = |number: i64| {
            let query = self.with_page(number);
            let mark = if query.is_empty() { "" } else { "?" };
            format!("http://{host}{path}{mark}{query}")
        };
        json!({
            "count": count,
            "next": (page.number < page.last).then(|| link(page.number + 1)),
            "previous": (page.number > 1).then(|| link(page.number - 1)),
            "results": results,
        })
    }

    /// The query string for another page: the same otherwise, sorted by name; the first
    /// page goes without saying.
    fn with_page(&self, number: i64) -> String {
        let mut pairs = self
            .0
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
        // Python's urlencode leaves the tilde bare and writes the asterisk as %2A.
        query.finish().replace("%7E", "~").replace('*', "%2A")
    }
}

/// One page of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    number: i64,
    last: i64,
    size: i64,
}

impl Page {
    pub(crate) fn limit(self) -> i64 {
        self.size
    }

    pub(crate) fn offset(self) -> i64 {
        (self.number - 1) * self.size
    }
}

fn bound(column: Column, comparison: Comparison, number: Decimal) -> Filter {
    // A column of whole numbers against one with a fraction: x > 9.5 is x > 9, x >= 9.5 is
    // x > 9 too, x < 9.5 is x <= 9, and no x equals it.
    let (comparison, value) = match (comparison, number.has_fraction) {
        (comparison, false) => (comparison, number.floor),
        (Comparison::Greater | Comparison::GreaterOrEqual, true) => {
            (Comparison::Greater, number.floor)
        }
        (Comparison::Less | Comparison::LessOrEqual, true) => {
            (Comparison::LessOrEqual, number.floor)
        }
        // Below every price and stock.
        (Comparison::Equal, true) => (Comparison::Equal, -1),
    };
    Filter {
        column,
        comparison,
        value,
    }
}

fn order(text: &str) -> Vec<(Column, Direction)> {
    let mut order = Vec::new();
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
            // Passed over, as in DRF.
            _ => continue,
        };
        // What is ordered by a column already has no ties in it left to order; and a
        // thousand times the same column is more than a database takes.
        if order.iter().all(|(earlier, _)| *earlier != column) {
            order.push((column, direction));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(query: &str) -> Result<ProductQuery, Refusal> {
        let uri: Uri = format!("/?{query}").parse().unwrap();
        Parameters::of(&uri).selection()
    }

    #[test]
    fn a_column_orders_once() {
        let order = selection("ordering=-price,nonsense,price,id,-id,-price").unwrap();
        let once = [
            (Column::Price, Direction::Descending),
            (Column::Id, Direction::Ascending),
        ];
        assert_eq!(order.order, once);
    }

    #[test]
    fn no_search_is_more_than_a_database_takes() {
        let most = selection(&format!("search={}", "a+".repeat(MOST_TERMS))).unwrap();
        assert_eq!(most.terms.len(), MOST_TERMS);
        assert!(selection(&format!("search={}", "a+".repeat(MOST_TERMS + 1))).is_err());
        assert!(selection(&format!("search={}", "a".repeat(MOST_SEARCH_BYTES))).is_ok());
        assert!(selection(&format!("search={}", "a".repeat(MOST_SEARCH_BYTES + 1))).is_err());
    }

    #[test]
    fn a_link_leads_to_a_host() {
        let uri = "/?page_size=1".parse().unwrap();
        let parameters = Parameters::of(&uri);
        for (given, expected) in [
            ("shop.example:8080", "shop.example:8080"),
            ("[::1]:80", "[::1]:80"),
            ("shop/path", "localhost"),
            ("user@shop", "localhost"),
            ("a b", "localhost"),
            ("", "localhost"),
        ] {
            let headers = HeaderMap::from_iter([(HOST, given.parse().unwrap())]);
            let page = parameters.page(2).ok().unwrap();
            let answer = parameters.answer(page, 2, Vec::new(), &headers, "/");
            assert_eq!(
                answer["next"],
                format!("http://{expected}/?page=2&page_size=1")
            );
        }
    }
}
