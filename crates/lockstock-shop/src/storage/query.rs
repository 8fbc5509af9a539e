//! What lists select: products by search terms and filters, ledger entries by kind.

/// Which products a list contains, and in which order.
#[derive(Debug, Clone, Default)]
pub struct ProductQuery {
    /// Each term must occur in the name or the description, ignoring case.
    pub terms: Vec<String>,
    /// Each filter must match.
    pub filters: Vec<Filter>,
    /// Sort columns, most significant first. Ties are broken by id.
    pub order: Vec<(Column, Direction)>,
}

/// A comparison of a column with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// The left operand.
    pub column: Column,
    /// The operator.
    pub comparison: Comparison,
    /// The right operand.
    pub value: i64,
}

/// A column of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the field of Product of that name")]
pub enum Column {
    Id,
    Name,
    Price,
    Stock,
    Version,
    CreatedAt,
    UpdatedAt,
}

/// The operator of a [`Filter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Comparison {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// A sort direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Direction {
    Ascending,
    Descending,
}

/// Which entries of a ledger a list contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryFilter {
    /// Every write.
    All,
    /// Purchases and confirmed reservations.
    Purchases,
}
