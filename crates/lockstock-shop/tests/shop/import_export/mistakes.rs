//! Files with mistakes: each is named with its line, and nothing is imported.

use std::fs;

use serde_json::json;

use super::Shop;
use crate::harness::product;

#[test]
fn each_mistake_in_a_csv_file_is_named_with_the_line_of_its_row() {
    let shop = Shop::sqlite();
    for (text, mistakes) in [
        (
            &b"name,price,stock\n\"a\nb\",1,1\n,x,-1\r\n\r\nC,5\nD,1,2,3\n"[..],
            &[
                "line 4: name: This field may not be blank.",
                "line 4: price: A valid integer is required.",
                "line 4: stock: Ensure this value is greater than or equal to 0.",
                "line 6: The row has 2 values, and the header 3.",
                "line 7: The row has 4 values, and the header 3.",
            ][..],
        ),
        (
            b"\xef\xbb\xbfname,price\rA,1\rB,\r",
            &["line 3: price: A valid integer is required."],
        ),
        (
            b"name,price\nA,\xff\nB,x\n",
            &[
                "line 2: price: The text is not UTF-8.",
                "line 3: price: A valid integer is required.",
            ],
        ),
        (
            b"name,price\nA,1\n\"B,2\nC,3\n",
            &["line 3: A quote of this row is not closed."],
        ),
        (
            b"name,price\n\"B",
            &["line 2: A quote of this row is not closed."],
        ),
        (
            b"id,name,price\n0,A,1\n9007199254740993,B,1\n",
            &[
                "line 2: id: Ensure this value is greater than or equal to 1.",
                "line 3: id: Ensure this value is less than or equal to 1000000000000000.",
            ],
        ),
        (
            b"id,nam,price,zzz\n",
            &[
                "line 1: There is no column 'nam': did you mean 'name'?",
                "line 1: There is no column 'zzz': the columns are those of a product, like \
                 id,name,description,price,stock,version.",
            ],
        ),
        (
            b"\nname,price,name\n",
            &["line 2: The column 'name' is there twice."],
        ),
        (
            b"id,stock\n",
            &[
                "line 1: The column 'name' is missing.",
                "line 1: The column 'price' is missing.",
            ],
        ),
        (
            b"name;price\nA;1\n",
            &["line 1: The columns are separated by commas, and not by semicolons or tabs."],
        ),
        (
            b"\xff\xfen\0a\0m\0e\0",
            &["line 1: The file is in UTF-16: save it as UTF-8."],
        ),
        (
            b"na\xffme\n",
            &["line 1: The first line is not UTF-8: save the file as UTF-8."],
        ),
        (
            b"\r\n\n",
            &[
                "line 1: The file is empty: its first line names the columns, like \
                id,name,description,price,stock,version.",
            ],
        ),
    ] {
        let file = shop.file("products.csv", text);
        assert_eq!(shop.rejected(&file, &[]), mistakes);
    }
    assert!(shop.products().is_empty());
    let no_rows = shop.import(&shop.file("products.csv", "name,price\n"), &[]);
    assert!(
        no_rows.starts_with("Imported 0 products (0 new) in "),
        "{no_rows}"
    );
}

#[test]
fn each_mistake_in_json_lines_is_named_with_its_line() {
    let shop = Shop::sqlite();
    let text = b"\n  \r\n{\"name\": \"A\", \"price\": 1}\n{\"nam\": \"B\", \"price\": 1.5}\n{\"name\": }\n\
        [1]\n\xff\n{\"name\": null, \"price\": 1, \"version\": 0}";
    let mistakes = shop.rejected(&shop.file("products.jsonl", text), &[]);
    let expected = [
        "line 4: There is no field 'nam': did you mean 'name'?",
        "line 4: name: This field is required.",
        "line 4: price: A valid integer is required.",
        "line 5: JSON parse error - expected value at column 10",
        "line 6: Invalid data. Expected a dictionary, but got list.",
        "line 7: JSON parse error - invalid utf-8 sequence of 1 bytes from index 0",
        "line 8: version: Ensure this value is greater than or equal to 1.",
        "line 8: name: This field may not be null.",
    ];
    assert_eq!(mistakes, expected);
    let empty = shop.import(&shop.file("empty.jsonl", ""), &[]);
    assert!(
        empty.starts_with("Imported 0 products (0 new) in "),
        "{empty}"
    );
}

#[test]
fn a_row_that_is_too_large_is_one_mistake() {
    let shop = Shop::sqlite();
    let large = "x".repeat(1024 * 1024);
    for (name, text) in [
        (
            "large.csv",
            format!("name,price,description\nA,1,{large}\nB,x,\n"),
        ),
        (
            "large.jsonl",
            format!(
                "\n{{\"name\": \"A\", \"price\": 1, \"description\": \"{large}\"}}\n\
                 {{\"name\": \"B\", \"price\": \"x\"}}\n"
            ),
        ),
    ] {
        let expected = [
            "line 2: The row is larger than 1 MiB.",
            "line 3: price: A valid integer is required.",
        ];
        assert_eq!(shop.rejected(&shop.file(name, text), &[]), expected);
    }
    let many = "name,price\nA,1\nB".to_owned() + &",1".repeat(1000) + "\nC,1\n";
    let expected = ["line 3: The row has 1001 values, and the header 2."];
    assert_eq!(shop.rejected(&shop.file("many.csv", many), &[]), expected);
}

#[test]
fn twenty_mistakes_are_named_in_the_order_of_their_lines() {
    for shop in Shop::each() {
        let mut text = "id,name,price\n1,A,1\n1,A,1\n".to_owned();
        for _ in 0..22 {
            text += ",B,x\n";
        }
        text += "1,A,1\n";
        let mistakes = shop.rejected(&shop.file("products.csv", text), &[]);
        assert_eq!(mistakes.len(), 21);
        assert_eq!(mistakes[0], "line 3: id: Line 2 has the same id.");
        assert_eq!(mistakes[19], "line 22: price: A valid integer is required.");
        assert_eq!(mistakes[20], "and 4 more");
    }
}

#[tokio::test]
async fn each_conflict_with_the_database_is_named() {
    for shop in Shop::each() {
        let server = shop.server();
        let [first, sold, held, deleted] = [
            server.create(5).await,
            server.create(5).await,
            server.create(5).await,
            server.create(5).await,
        ];
        assert_eq!(server.buy(sold, 1).await.status, 201);
        let reserved = server
            .post(held, "reservations/", json!({ "quantity": 3 }))
            .await;
        assert_eq!(reserved.status, 201);
        let request = server.request(reqwest::Method::DELETE, &product(deleted));
        assert_eq!(server.send(request).await.status, 204);
        let before = shop.products();

        let text = format!(
            "id,name,price,stock,version\n{first},A,1,5,1\n{sold},B,1,5,1\n{held},C,1,2,\n\
             {deleted},D,1,1,1\n77,E,1,1,1\n77,E,1,1,1\n"
        );
        let file = shop.file("products.csv", text);
        let exists = |line, id| format!("line {line}: id: Product {id} exists: see --update.");
        let was_deleted =
            format!("line 5: id: Product {deleted} was deleted, and its id is not used again.");
        let twice = "line 7: id: Line 6 has the same id.".to_owned();
        let expected = [
            exists(2, first),
            exists(3, sold),
            exists(4, held),
            was_deleted.clone(),
            twice.clone(),
        ];
        assert_eq!(shop.rejected(&file, &[]), expected);
        let expected = [
            "line 3: version: The product has changed since, and is at version 2: export again, or \
             leave out this column."
                .to_owned(),
            "line 4: stock: Reservations hold 3: the stock may not fall below that.".to_owned(),
            was_deleted,
            twice,
        ];
        assert_eq!(shop.rejected(&file, &["--update"]), expected);
        let partial = shop.file("partial.csv", format!("id,stock\n{first},4\n88,1\n"));
        let missing = "There is no product with this id, and a new one needs this field.";
        assert_eq!(
            shop.rejected(&partial, &["--update"]),
            [
                format!("line 3: name: {missing}"),
                format!("line 3: price: {missing}")
            ]
        );
        assert_eq!(shop.products(), before);

        // What is held stays available to its holder, and the stock may rise or stay.
        let fine = shop.file("fine.csv", format!("id,stock\n{held},3\n{sold},4\n"));
        shop.import(&fine, &["--update"]);
        assert_eq!(server.stock(held).await, 3);
        for id in [first, sold, held] {
            server.ledger(id).await;
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let shop = Shop::sqlite();
    for (file, words) in [
        (shop.path("missing.csv"), "No such file"),
        (shop.file("products.txt", ""), "give --format csv"),
        (shop.path("folder.csv"), "Is a directory"),
    ] {
        if words == "Is a directory" {
            fs::create_dir(&file).unwrap();
        }
        let output = shop.run("import", &file, &[]);
        let stderr = super::texts(&output).1;
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}
