//! The configuration file, secrets from files, and `lockstock config`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lockstock_testkit::Redis;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Server, binary, sqlite};

/// The file that operators start from.
const SAMPLE: &str = include_str!("../../../../deploy/lockstock.toml");

/// A folder for files of a test.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file with these permissions, and returns its path.
    fn write(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn lockstock(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = binary();
    command.args(args).envs(variables.iter().copied());
    command.output().unwrap()
}

/// Returns the error of a command line that is invalid.
fn usage_error(args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = lockstock(args, variables);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
    assert!(output.stdout.is_empty());
    error
}

/// Returns the options as `config print --json` shows them.
fn effective(args: &[&str], variables: &[(&str, &str)]) -> Value {
    let args = [&["config", "print", "--json"], args].concat();
    let output = lockstock(&args, variables);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    printed["options"].clone()
}

#[tokio::test]
async fn a_server_takes_its_options_from_the_file() {
    let folder = Folder::new();
    let text = "after-update = \"release\"\nno-samples = true\nmax-quantity = 7\n\
                cors-origins = [\"https://a.example\", \"https://b.example\"]\n";
    let file = folder.write("lockstock.toml", text, 0o644);
    let mut command = binary();
    command
        .args([
            "--config",
            &file,
            "--listen",
            "127.0.0.1:0",
            "--drain-delay",
            "0s",
        ])
        .args(["--database", &sqlite(&folder.path("shop.sqlite3"))]);
    let server = Server::from(command).start();
    let id = server.create(20).await;
    for stock in [9, 8] {
        let changed = server.patch(id, json!({ "stock": stock })).await;
        assert_eq!(changed.status, 200, "without a cool-down");
    }
    let list = server.request(reqwest::Method::GET, "/api/products/");
    let list = server
        .send(list.header("Origin", "https://b.example"))
        .await;
    assert_eq!(list.body["count"], 1, "without samples");
    assert_eq!(
        list.header("access-control-allow-origin"),
        "https://b.example"
    );
    let document = server.get("/openapi.json").await.body;
    let quantity = &document["components"]["schemas"]["PurchaseRequest"]["properties"]["quantity"];
    assert_eq!(quantity["maximum"], 7);
}

#[test]
fn the_command_line_comes_before_the_environment_and_that_before_the_file() {
    let folder = Folder::new();
    let text = "update-lease = \"4s\"\nupdate-wait = \"2s\"\n\nno-samples = true\nlog = \"warn\"\n";
    let file = folder.write("lockstock.toml", text, 0o644);
    let variables = [
        ("LOCKSTOCK_CONFIG", &file[..]),
        ("LOCKSTOCK_UPDATE_LEASE", "5s"),
        ("LOCKSTOCK_UPDATE_WAIT", "500ms"),
        ("LOCKSTOCK_NO_SAMPLES", "false"),
    ];
    let options = effective(&["--update-lease", "6s"], &variables);
    assert_eq!(
        options["update-lease"],
        json!({ "value": "6s", "origin": "command line" })
    );
    let of_environment = |value: Value, variable: &str| json!({ "value": value, "origin": "environment", "variable": variable });
    assert_eq!(
        options["update-wait"],
        of_environment("500ms".into(), "LOCKSTOCK_UPDATE_WAIT")
    );
    assert_eq!(
        options["no-samples"],
        of_environment(false.into(), "LOCKSTOCK_NO_SAMPLES")
    );
    assert_eq!(
        options["log"],
        json!({ "value": "warn", "origin": "file", "file": file, "line": 5 })
    );
    assert_eq!(
        options["max-requests"],
        json!({ "value": 1024, "origin": "default" })
    );
    // A variable that is empty is unset.
    let without = [("LOCKSTOCK_CONFIG", &file[..]), ("LOCKSTOCK_LOG", "")];
    assert_eq!(effective(&[], &without)["log"]["origin"], "file");
    assert_eq!(
        effective(&[], &[("LOCKSTOCK_CONFIG", "")])["log"]["value"],
        "info"
    );
    // The last file of the command line counts.
    let other = folder.write("other.toml", "log = \"error\"\n", 0o644);
    let last = effective(&["--config", &file, "--config", &other], &[]);
    assert_eq!(last["log"]["value"], "error");
}

#[test]
fn every_mistake_in_a_file_is_reported_with_its_place() {
    let folder = Folder::new();
    let text = "listn = \"127.0.0.1:1\"\nupdate-lease = 3\n[limits]\nmax-requests = 1\n";
    let file = folder.write("lockstock.toml", text, 0o644);
    let error = usage_error(&["--config", &file], &[]);
    for line in [
        format!("{file}:1: there is no option 'listn': did you mean 'listen'?"),
        format!("{file}:2: update-lease = '3': expected a number and a unit, from 1ms to 1d"),
        format!("{file}:3: there is no option 'limits'"),
    ] {
        assert!(error.contains(&line), "{line}: {error}");
    }
    for args in [["locks", "--config", &file], ["doctor", "--config", &file]] {
        assert!(usage_error(&args, &[]).contains("did you mean"), "{args:?}");
    }
    let broken = folder.write("broken.toml", "listen = \n", 0o644);
    assert!(usage_error(&["--config", &broken], &[]).contains("broken.toml:1: "));
    let missing = usage_error(&["--config", "/nowhere.toml"], &[]);
    assert!(missing.contains("cannot read /nowhere.toml: No such file"));
    // A help text is printed beside any file, and `race` has no use for one.
    let variables = [("LOCKSTOCK_CONFIG", &broken[..])];
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["help"],
        &["race", "--help"],
    ] {
        assert!(lockstock(args, &variables).status.success(), "{args:?}");
    }
    assert!(usage_error(&["race", "--config", &file], &[]).contains("unexpected argument"));
}

#[test]
fn the_printed_configuration_is_a_configuration_file() {
    let folder = Folder::new();
    let store = "redis://shop:open-sesame@redis.internal:6379/1?secret=1";
    let printed = lockstock(
        &[
            "config",
            "print",
            "--store",
            store,
            "--trusted-proxies",
            "10.0.0.0/8,unix",
        ],
        &[("LOCKSTOCK_PUBLIC_URL", "https://shop.example/\"a\"")],
    );
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(
        !text.contains("sesame") && !text.contains("secret"),
        "{text}"
    );
    for line in [
        "store = \"redis://redis.internal:6379/1\"            # command line: --store\n",
        "# cors-origins is not set\n",
        "update-lease = \"3s\"                                # default\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let file = folder.write("printed.toml", &text, 0o644);
    let options = effective(&["--config", &file], &[]);
    assert_eq!(options["store"]["value"], "redis://redis.internal:6379/1");
    assert_eq!(
        options["trusted-proxies"]["value"],
        json!(["10.0.0.0/8", "unix"])
    );
    for (name, option) in options.as_object().unwrap() {
        let is_set = !option["value"].is_null();
        let origin = if is_set { "file" } else { "default" };
        assert_eq!(option["origin"], origin, "{name}");
    }
    let again = lockstock(&["config", "print", "--config", &file], &[]);
    let values = |text: &str| {
        let lines = text.lines().map(|line| line.split("  #").next());
        lines
            .map(|line| line.unwrap().trim().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        values(&String::from_utf8(again.stdout).unwrap()),
        values(&text)
    );
}

#[test]
fn the_sample_file_explains_every_option_and_each_line_is_valid() {
    let sample = lockstock(&["config", "sample"], &[]);
    assert_eq!(
        String::from_utf8(sample.stdout).unwrap(),
        SAMPLE,
        "write it with `cargo run -- config sample > deploy/lockstock.toml`"
    );
    let settings = settings();
    let names = settings
        .iter()
        .map(|line| line.split(" = ").next().unwrap());
    let options = effective(&[], &[]);
    let known = options.as_object().unwrap().keys().map(String::as_str);
    assert_eq!(names.collect::<Vec<_>>(), known.collect::<Vec<_>>());
    let folder = Folder::new();
    // The others name files that this machine does not have.
    let valid = settings.iter().filter(|line| !line.contains("-file = "));
    let text = valid.copied().collect::<Vec<_>>().join("\n");
    let file = folder.write("lockstock.toml", &text, 0o644);
    let set = effective(&["--config", &file], &[]);
    for (name, option) in set.as_object().unwrap() {
        assert!(
            !option["value"].is_null() || name.ends_with("-file"),
            "{name}"
        );
        let default = &options[name]["value"];
        assert!(default.is_null() || *default == option["value"], "{name}");
    }
}

#[tokio::test]
async fn a_secret_is_read_from_a_file_that_others_cannot_read() {
    let folder = Folder::new();
    let redis = Redis::start_with(&["--requirepass", "open-sesame"]);
    let url = format!("redis://:open-sesame@{}", redis.address());
    let secret = folder.write("store", &format!("{url}\n"), 0o640);
    let listed = |args: &[&str], variables: &[(&str, &str)]| {
        let output = lockstock(&[&["locks"], args].concat(), variables);
        assert!(output.status.success(), "{output:?}");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("No lock is held") && !text.contains("sesame"),
            "{text}"
        );
    };
    listed(&["--store-file", &secret], &[]);
    listed(&[], &[("LOCKSTOCK_STORE_FILE", &secret)]);
    let config = folder.write(
        "lockstock.toml",
        &format!("store-file = \"{secret}\"\n"),
        0o644,
    );
    listed(&["--config", &config], &[]);
    // One that is nearer comes first.
    listed(
        &["--store-file", &secret],
        &[("LOCKSTOCK_STORE", "redis://127.0.0.1:1")],
    );
    let elsewhere = folder.write("elsewhere", "redis://127.0.0.1:1", 0o600);
    listed(&["--store", &url], &[("LOCKSTOCK_STORE_FILE", &elsewhere)]);
    listed(&["--store", &url, "--config", &config], &[]);

    let database = folder.write("database", &sqlite(&folder.path("shop.sqlite3")), 0o600);
    let mut command = binary();
    command
        .args([
            "--listen",
            "127.0.0.1:0",
            "--no-samples",
            "--drain-delay",
            "0s",
        ])
        .args(["--store-file", &secret, "--database-file", &database]);
    let server = Server::from(command).start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    assert!(folder.path("shop.sqlite3").exists());
    assert!(!server.log().contains("sesame"));
    let command_line = format!("/proc/{}/cmdline", server.process.id());
    assert!(!fs::read_to_string(command_line).unwrap().contains("sesame"));

    let shown = effective(&["--config", &config], &[]);
    assert_eq!(shown["store-file"]["value"], secret);
    assert_eq!(shown["store"], Value::Null, "only the option that counts");
}

#[test]
fn a_secret_that_others_can_read_or_that_is_given_twice_is_rejected() {
    let folder = Folder::new();
    let open = folder.write("open", "redis://:open-sesame@h", 0o644);
    let error = usage_error(&["locks", "--store-file", &open], &[]);
    assert!(error.contains(&format!(
        "--store-file: other users can read or change {open}"
    )));
    assert!(
        error.contains("(mode 0644)") && error.contains("`chmod g-wx,o= "),
        "{error}"
    );
    let missing = usage_error(&["locks", "--store-file", "/nowhere"], &[]);
    assert!(missing.contains("cannot read /nowhere"), "{missing}");

    let closed = folder.write("closed", "redis://:open-sesame@h", 0o600);
    let twice = ["locks", "--store", "redis://h", "--store-file", &closed];
    assert!(usage_error(&twice, &[]).contains("--store and --store-file exclude each other"));
    let variables = [
        ("LOCKSTOCK_STORE", "redis://h"),
        ("LOCKSTOCK_STORE_FILE", &closed[..]),
    ];
    assert!(usage_error(&["locks"], &variables).contains("exclude each other"));
    let text = format!("database-file = \"{closed}\"\ndatabase = \"sqlite://x\"\n");
    let config = folder.write("twice.toml", &text, 0o600);
    let error = usage_error(&["--config", &config], &[]);
    assert!(
        error.contains("twice.toml:1: database and database-file exclude"),
        "{error}"
    );

    // The file of the options is like one of a secret if it contains one.
    let text = "\nstore = \"redis://:open-sesame@h\"\n";
    let config = folder.write("password.toml", text, 0o644);
    let error = usage_error(&["config", "print", "--config", &config], &[]);
    assert!(
        error.contains("password.toml:2: store: ") && error.contains("contains a password"),
        "{error}"
    );
    assert!(
        error.contains("store-file") && !error.contains("sesame"),
        "{error}"
    );
    set_mode(Path::new(&config), 0o640);
    let shown = effective(&["--config", &config], &[]);
    assert_eq!(shown["store"]["value"], "redis://h");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_backup_finds_the_database_in_the_file() {
    let folder = Folder::new();
    let config = format!("database = \"{}\"\n", sqlite(&folder.path("none.sqlite3")));
    let config = folder.write("lockstock.toml", &config, 0o644);
    let target = folder.path("copy.sqlite3");
    let mut command: Command = binary();
    command
        .arg("backup")
        .arg(&target)
        .args(["--config", &config]);
    let error = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(error.contains("none.sqlite3"), "{error}");
}

#[test]
fn an_option_in_the_file_is_checked_as_one_on_the_command_line() {
    let folder = Folder::new();
    for (number, setting) in settings().iter().enumerate() {
        let (name, value) = setting.split_once(" = ").unwrap();
        let file = folder.write(&format!("{number}.toml"), setting, 0o644);
        let value = value.trim_matches(['[', ']']).replace(['"', ' '], "");
        let option = match &value[..] {
            "false" => format!("--{name}"),
            value => format!("--{name}={value}"),
        };
        let print = |args: &[&str]| {
            let output = lockstock(&[&["config", "print"], args].concat(), &[]);
            let error = String::from_utf8(output.stderr).unwrap();
            (output.status.code(), error)
        };
        // An option that needs another one is rejected without it, for example.
        assert_eq!(print(&["--config", &file]), print(&[&option]), "{setting}");
    }
}

/// Returns the lines of the sample file that are settings.
fn settings() -> Vec<&'static str> {
    let is_setting = |line: &&str| line.starts_with('#') && line[1..].contains(" = ");
    let settings = SAMPLE
        .lines()
        .filter(is_setting)
        .filter(|line| !line.starts_with("# "));
    settings.map(|line| &line[1..]).collect()
}
