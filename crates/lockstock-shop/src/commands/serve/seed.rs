//! Sample products for an empty database.

use tracing::info;

use crate::storage::{NewProduct, Storage};

const SAMPLES: [(&str, &str, i64, i64); 5] = [
    (
        "Canvas sneakers",
        "White, the last ten pairs of the season",
        49_900,
        10,
    ),
    (
        "Enamel mug",
        "Holds 350 ml and a grudge against dishwashers",
        12_000,
        120,
    ),
    ("Desk lamp", "Warm light, one left", 89_000, 1),
    ("보자기 가방", "천으로 묶어 드는 가방", 35_000, 40),
    ("Fountain pen", "Sold out until spring", 64_000, 0),
];

/// Creates the sample products if the database has no product.
pub(crate) async fn create_if_empty(storage: &dyn Storage) -> anyhow::Result<()> {
    let samples = SAMPLES.map(|(name, description, price, stock)| NewProduct {
        name: name.to_owned(),
        description: description.to_owned(),
        price,
        stock,
    });
    if storage.create_if_empty(&samples).await? {
        info!(count = samples.len(), "created sample products");
    }
    Ok(())
}
