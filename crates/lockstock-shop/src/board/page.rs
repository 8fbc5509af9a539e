//! The pages of the board, rendered by the server: complete tables that need no JavaScript, which
//! the modules in `web/` then keep up to date.
//!
//! Texts stand in the templates, in English and in Korean side by side.

mod rows;

use askama::Template;
use lockstock_http::Language;

use super::filter::Filter;

pub(super) use self::rows::{EntryRow, EpisodeRow, LockRow, ProductRow};

/// What all pages have in common.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) language: Language,
    /// Relative URL of `/`, so that the page works under any prefix of a proxy.
    pub(super) root: &'static str,
    /// Part of the path of the assets that changes with their content.
    pub(super) assets: &'static str,
    /// Whether writes need an API key.
    pub(super) needs_key: bool,
    /// Tag of the language, if the query string chooses it.
    pub(super) chosen: Option<&'static str>,
    /// Query string of the same page in the other language.
    pub(super) other_query: String,
}

impl Page {
    /// Returns the query string of links to other pages.
    fn query(&self) -> String {
        self.chosen
            .map_or(String::new(), |tag| format!("?lang={tag}"))
    }

    /// Returns the text in the language of the page.
    fn text<'a>(&self, english: &'a str, korean: &'a str) -> &'a str {
        match self.language {
            Language::Korean => korean,
            _ => english,
        }
    }
}

/// The board at `/`.
#[derive(Template)]
#[template(path = "board.html")]
pub(super) struct Board<'a> {
    pub(super) page: Page,
    pub(super) filter: Filter,
    pub(super) locks: Vec<LockRow>,
    /// Whether the list of locks has all locks of the store.
    pub(super) has_all_locks: bool,
    pub(super) episodes: Vec<EpisodeRow>,
    pub(super) products: Vec<ProductRow>,
    /// Number of all products; the list may be shorter.
    pub(super) product_count: i64,
    /// Names of the other servers that the race can include.
    pub(super) replicas: Vec<&'a str>,
}

impl Board<'_> {
    /// Returns the label of the choice of all servers, this one included.
    fn all_servers(&self) -> String {
        let servers = self.replicas.len() + 1;
        match self.page.language {
            Language::Korean => format!("서버 {servers}대 모두"),
            _ => format!("All {servers} servers"),
        }
    }

    fn has_more_products(&self) -> bool {
        usize::try_from(self.product_count).is_ok_and(|count| count > self.products.len())
    }
}

/// The page of one product.
#[derive(Template)]
#[template(path = "product.html")]
pub(super) struct Product {
    pub(super) page: Page,
    pub(super) product: ProductRow,
    pub(super) description: String,
    /// The latest entries of the ledger, the newest first.
    pub(super) entries: Vec<EntryRow>,
    /// Number of all entries.
    pub(super) entry_count: i64,
}

/// The page in place of a product that does not exist.
#[derive(Template)]
#[template(path = "missing.html")]
pub(super) struct Missing {
    pub(super) page: Page,
}
