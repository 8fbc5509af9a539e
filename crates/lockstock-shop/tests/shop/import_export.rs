//! `lockstock import products` and `lockstock export products`.

mod beside_servers;
mod large_files;
mod mistakes;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Server, binary, new_database, psql, sqlite};

/// A database, and a folder for files.
struct Shop {
    database: String,
    folder: TempDir,
}

impl Shop {
    fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            database: sqlite(&folder.path().join("shop.sqlite3")),
            folder,
        }
    }

    fn postgres() -> Self {
        Self {
            database: new_database(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn each() -> [Self; 2] {
        [Self::sqlite(), Self::postgres()]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, command: &str, file: &Path, args: &[&str]) -> std::process::Command {
        let mut built = binary();
        built.args([command, "products", "--database", &self.database]);
        built.arg(file).args(args);
        built
    }

    fn run(&self, command: &str, file: &Path, args: &[&str]) -> Output {
        let mut command = self.command(command, file, args);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Imports a file. Returns the first line of the output.
    fn import(&self, file: &Path, args: &[&str]) -> String {
        let output = self.run("import", file, args);
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "{stderr}");
        stdout.lines().next().unwrap_or_default().to_owned()
    }

    /// Imports a file that has mistakes. Returns the lines of the error after the first one.
    fn rejected(&self, file: &Path, args: &[&str]) -> Vec<String> {
        let output = self.run("import", file, args);
        let (stdout, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(2), "{stdout}{stderr}");
        let mut lines = stderr.lines();
        let first = lines.next().unwrap();
        assert!(first.ends_with("; nothing was imported"), "{first}");
        lines.map(|line| line.trim().to_owned()).collect()
    }

    /// Returns the products that an export has, without their times.
    fn products(&self) -> Vec<Value> {
        let output = self.run("export", Path::new("-"), &["--format", "jsonl"]);
        assert!(output.status.success(), "{}", texts(&output).1);
        let lines = texts(&output).0;
        let products = lines.lines().map(|line| {
            let mut product: Value = serde_json::from_str(line).unwrap();
            let fields = product.as_object_mut().unwrap();
            assert!(fields.remove("created_at").is_some());
            assert!(fields.remove("updated_at").is_some());
            product
        });
        products.collect()
    }

    /// Returns a server on the database.
    fn server(&self) -> Server {
        Server::on("memory://", &self.database)
            .args(&["--after-update", "release"])
            .start()
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Products whose texts are hard to write as CSV.
const DIFFICULT: &str = r#"{"name": "보자기 가방", "description": "천으로 묶어 드는 가방 👜🏽", "price": 35000, "stock": 40}
{"name": "=SUM(A1:A9)", "price": 0}
{"name": "19\" rack, \"used\"", "description": "two\nlines\r\nand\ra tab\t;", "price": 2147483647, "stock": 2147483647}
{"name": "\"", "description": ",", "price": 1, "stock": 0}
{"name": "\\N", "description": "null", "price": 1}
"#;

#[test]
fn an_exported_file_is_imported_unchanged() {
    for shop in Shop::each() {
        let file = shop.file("products.jsonl", DIFFICULT);
        let imported = shop.import(&file, &[]);
        assert!(imported.starts_with("Imported 5 products (5 new) in "));
        let products = shop.products();
        let names = products.iter().map(|product| product["name"].as_str());
        let expected = DIFFICULT.lines().map(|line| {
            let product: Value = serde_json::from_str(line).unwrap();
            product["name"].as_str().unwrap().to_owned()
        });
        assert!(
            names.eq(expected
                .collect::<Vec<_>>()
                .iter()
                .map(|name| Some(&**name)))
        );
        let difficult = &products[2];
        assert_eq!(difficult["description"], "two\nlines\r\nand\ra tab\t;");
        assert_eq!(difficult["price"], 2_147_483_647);
        assert_eq!(products[1]["stock"], 0);
        for name in ["again.csv", "again.jsonl"] {
            let file = shop.path(name);
            let output = shop.run("export", &file, &[]);
            assert_eq!(
                texts(&output).0,
                format!("Exported 5 products to {}.\n", file.display())
            );
            let again = shop.import(&file, &["--update"]);
            assert!(
                again.starts_with("Imported 5 products (0 new, 5 unchanged) in "),
                "{again}"
            );
            assert_eq!(shop.products(), products);
            // And into another database, under the same ids.
            for other in Shop::each() {
                other.import(&file, &[]);
                assert_eq!(other.products(), products);
            }
        }
    }
}

#[tokio::test]
async fn an_import_is_part_of_the_ledger() {
    for shop in Shop::each() {
        let file = shop.file(
            "new.csv",
            "id,name,price,stock\n7,Mug,1200,5\n,Lamp,89000,1\n",
        );
        let output = shop.run("import", &file, &[]);
        let request = texts(&output).0;
        let request = request.trim_end().rsplit_once(' ').unwrap().1.to_owned();
        assert!(request.starts_with("import-"), "{request}");
        let changed = "id,stock,version\n7,3,1\n8,,1\n";
        let changed = shop.import(&shop.file("changed.csv", changed), &["--update"]);
        assert!(changed.starts_with("Imported 2 products (0 new, 1 updated, 1 unchanged) in"));
        let server = shop.server();
        let ledger = server.ledger(7).await;
        let found = ledger.iter().map(|entry| {
            json!([
                entry["reason"],
                entry["delta"],
                entry["fence"],
                entry["caller"]
            ])
        });
        let created = json!(["created", 5, null, null]);
        let expected = [created, json!(["changed", -2, null, null])];
        assert!(found.eq(expected), "{ledger:?}");
        assert_eq!(ledger[0]["request"], request);
        assert_ne!(ledger[1]["request"], request);
        assert_eq!(server.ledger(8).await.len(), 1);
        // The next ids are not those of the file.
        assert_eq!(server.create(1).await, 9);
    }
}

#[test]
fn a_row_changes_only_the_fields_that_the_file_has() {
    for shop in Shop::each() {
        let new = "name,description,price,stock\nMug,Blue,1200,5\nLamp,Warm,89000,1\n";
        shop.import(&shop.file("new.csv", new), &[]);
        shop.import(
            &shop.file("prices.csv", "id,price\n2,1\n1,2\n"),
            &["--update"],
        );
        shop.import(
            &shop.file("names.jsonl", "{\"id\": 1, \"description\": \"\"}\n"),
            &["--update"],
        );
        let expected = json!([
            { "id": 1, "name": "Mug", "description": "", "price": 2, "stock": 5, "version": 3 },
            { "id": 2, "name": "Lamp", "description": "Warm", "price": 1, "stock": 1, "version": 2 },
        ]);
        assert_eq!(json!(shop.products()), expected);
    }
}

#[test]
fn ids_that_the_file_names_and_ids_that_are_assigned_do_not_meet() {
    for shop in Shop::each() {
        let text = "id,name,price\n,a,1\n1,b,1\n,c,1\n3,d,1\n,e,1\n";
        shop.import(&shop.file("products.csv", text), &[]);
        let products = shop.products();
        let found = products
            .iter()
            .map(|it| (it["id"].as_i64(), it["name"].as_str()));
        let expected = [(1, "b"), (3, "d"), (4, "a"), (5, "c"), (6, "e")];
        assert!(
            found.eq(expected.map(|(id, name)| (Some(id), Some(name)))),
            "{products:?}"
        );
        shop.import(&shop.file("more.csv", "name,price\nf,1\n"), &[]);
        assert_eq!(shop.products()[5]["id"], 7);
    }
}

#[test]
fn standard_input_and_output_are_files_too() {
    let shop = Shop::sqlite();
    let mut import = shop.command("import", Path::new("-"), &["--format", "jsonl"]);
    import.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut import = import.spawn().unwrap();
    let mut input = import.stdin.take().unwrap();
    input
        .write_all(b"{\"name\": \"Mug\", \"price\": 1}")
        .unwrap();
    drop(input);
    assert!(import.wait_with_output().unwrap().status.success());
    let output = shop.run("export", Path::new("-"), &[]);
    let (stdout, stderr) = texts(&output);
    assert!(stdout.starts_with(
        "id,name,description,price,stock,version,created_at,updated_at\n1,Mug,,1,0,1,"
    ));
    assert_eq!(stderr, "");
    let no_format = shop.run("import", Path::new("-"), &[]);
    assert_eq!(no_format.status.code(), Some(1));
    assert!(texts(&no_format).1.contains("give --format"));
}

#[test]
fn a_dry_run_writes_nothing() {
    for shop in Shop::each() {
        let file = shop.file("products.csv", "name,price\nMug,1\n");
        let output = shop.import(&file, &["--dry-run"]);
        assert!(
            output.ends_with("can be imported: 1 product (1 new)."),
            "{output}"
        );
        assert!(shop.products().is_empty());
        shop.import(&file, &[]);
        let file = shop.file("other.csv", "id,name\n1,Cup\n2,Lamp\n");
        let mistakes = shop.rejected(&file, &["--dry-run", "--update"]);
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].starts_with("line 3: price: There is no product"));
    }
}

#[test]
fn an_export_replaces_a_file_when_it_is_complete() {
    let shop = Shop::sqlite();
    shop.import(&shop.file("products.csv", "name,price\nMug,1\n"), &[]);
    let (old, link) = (shop.file("old.csv", "old"), shop.path("link.csv"));
    std::os::unix::fs::symlink(&old, &link).unwrap();
    let other = Shop {
        database: sqlite(&shop.file("other.sqlite3", "")),
        folder: tempfile::tempdir().unwrap(),
    };
    let failed = other.run("export", &link, &[]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        texts(&failed)
            .1
            .contains("it is not a database of Lockstock")
    );
    assert_eq!(fs::read_to_string(&old).unwrap(), "old");
    assert!(shop.run("export", &link, &[]).status.success());
    assert!(link.is_symlink());
    assert!(fs::read_to_string(&old).unwrap().contains("Mug"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&old), mode(&shop.file("any", "")));
    let hidden = fs::read_dir(shop.folder.path()).unwrap();
    let mut hidden = hidden.map(|file| file.unwrap().file_name());
    assert!(!hidden.any(|name| name.to_string_lossy().starts_with('.')));
}

#[test]
fn the_database_can_be_named_in_a_configuration_file() {
    let shop = Shop::sqlite();
    let config = format!("database = \"{}\"\nmax-requests = 5\n", shop.database);
    let config = shop.file("lockstock.toml", config);
    let file = shop.file("products.csv", "name,price\nMug,1\n");
    let mut import = binary();
    import.args(["import", "products"]).arg(&file);
    import.arg("--config").arg(&config);
    let output = import.output().unwrap();
    assert!(output.status.success(), "{}", texts(&output).1);
    assert_eq!(shop.products().len(), 1);
}

#[test]
fn a_role_that_may_not_stage_rows_gets_the_remedy() {
    let shop = Shop::postgres();
    let (server, name) = shop.database.rsplit_once('/').unwrap();
    let clerk = format!("{name}_clerk");
    let setup = format!(
        "CREATE ROLE {clerk} LOGIN; ALTER DATABASE {name} OWNER TO {clerk};
         REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC, {clerk}"
    );
    psql(&shop.database, &setup);
    let of_clerk = Shop {
        database: format!(
            "{}/{name}",
            server.replace("postgres@", &format!("{clerk}@"))
        ),
        folder: tempfile::tempdir().unwrap(),
    };
    let file = shop.file("products.csv", "name,price\nMug,1\n");
    let output = of_clerk.run("import", &file, &[]);
    let stderr = texts(&output).1;
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let remedy = format!("GRANT TEMPORARY ON DATABASE {name} TO {clerk}");
    assert!(stderr.contains(&remedy), "{stderr}");
    psql(&shop.database, &remedy);
    of_clerk.import(&file, &[]);
}

#[test]
fn an_import_that_cannot_reach_the_database_fails_in_one_line() {
    let shop = Shop {
        database: "postgres://shop:open-sesame@127.0.0.1:1/shop".to_owned(),
        folder: tempfile::tempdir().unwrap(),
    };
    let file = shop.file("products.csv", "name,price\nMug,1\n");
    for command in ["import", "export"] {
        let output = shop.run(command, &file, &[]);
        let stderr = texts(&output).1;
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("connection refused"), "{stderr}");
        assert!(!stderr.contains("open-sesame"), "{stderr}");
    }
    assert_eq!(fs::read_to_string(file).unwrap(), "name,price\nMug,1\n");
}
