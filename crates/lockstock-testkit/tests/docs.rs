//! Documents name only files and tests that exist, and the crate `redis` is used only where
//! `ARCHITECTURE.md` permits it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Suffixes of the files that documents name.
const SUFFIXES: &[&str] = &[
    "rs", "lua", "py", "sql", "md", "toml", "yaml", "txt", "js", "html", "sh",
];

#[test]
fn every_file_named_in_a_document_exists() {
    let files = files();
    let exists = |name: &str| {
        let name = Path::new(name.trim_start_matches("./"));
        files.iter().any(|file| file.ends_with(name))
    };
    let missing = missing(|text| {
        let is_path = |word: &str| {
            let path = word
                .chars()
                .all(|c| c.is_alphanumeric() || "_-./{,}".contains(c));
            let suffix = word.rsplit_once('.').map_or("", |(_, suffix)| suffix);
            path && !word.starts_with('/') && SUFFIXES.contains(&suffix)
        };
        let named = code_spans(text)
            .filter(|word| is_path(word))
            .flat_map(alternatives);
        named.filter(|name| !exists(name)).collect()
    });
    assert!(missing.is_empty(), "no such file:\n{}", missing.join("\n"));
}

#[test]
fn every_relative_link_in_a_document_has_a_target() {
    let missing = documents().into_iter().flat_map(|(path, text)| {
        let folder = path.parent().unwrap().to_owned();
        let targets: Vec<_> = text.split("](").skip(1).map(|it| it.to_owned()).collect();
        targets.into_iter().filter_map(move |target| {
            let target = target.split([')', '#', ' ']).next().unwrap();
            let is_local = !target.is_empty() && !target.contains(':');
            let is_missing = is_local && !folder.join(target).exists();
            is_missing.then(|| format!("{}: {target}", path.display()))
        })
    });
    let missing = Vec::from_iter(missing);
    assert!(
        missing.is_empty(),
        "no such target:\n{}",
        missing.join("\n")
    );
}

/// An identifier of four words or more is the name of a test, unless it is a metric, which begins
/// with `lockstock_`.
#[test]
fn every_test_named_in_a_document_exists() {
    let sources = sources();
    let exists = |name: &str| {
        let declarations = [format!("fn {name}"), format!("def {name}")];
        sources.iter().any(|(_, text)| {
            declarations.iter().any(|declaration| {
                text.match_indices(declaration)
                    .any(|(at, it)| text[at + it.len()..].starts_with(['(', '<']))
            })
        })
    };
    let missing = missing(|text| {
        let is_test = |word: &str| {
            let word_chars = word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit());
            let is_metric = word.starts_with("lockstock_") || word.starts_with("process_");
            word_chars && word.matches('_').count() >= 3 && !is_metric
        };
        let named = code_spans(text).filter(|word| is_test(word));
        named
            .filter(|name| !exists(name))
            .map(str::to_owned)
            .collect()
    });
    assert!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
}

#[test]
fn only_the_lock_and_the_bench_command_use_the_redis_crate() {
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let package = entry.unwrap().path();
        let name = package.file_name().unwrap().to_str().unwrap();
        let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
        let depends = manifest.lines().any(|line| line.starts_with("redis"));
        assert_eq!(
            depends,
            ["lockstock", "lockstock-shop"].contains(&name),
            "{name}"
        );
    }
    for (path, text) in sources() {
        if path.starts_with("crates/lockstock-shop/src") && text.contains("redis::") {
            assert!(
                path.iter().any(|part| part == "bench"),
                "{}",
                path.display()
            );
        }
    }
}

/// Returns what `find` returns for each document, with the name of the document.
fn missing(find: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let found = documents().into_iter().flat_map(|(path, text)| {
        let path = path.strip_prefix(root()).unwrap().display().to_string();
        let found: BTreeSet<_> = find(&text).into_iter().collect();
        found.into_iter().map(move |name| format!("{path}: {name}"))
    });
    found.collect()
}

/// Returns each document with its absolute path. The change log may name files of the past.
fn documents() -> Vec<(PathBuf, String)> {
    let files = files().into_iter().map(|file| root().join(file));
    let documents = files.filter(|file| {
        let is_history = file.ends_with("CHANGELOG.md");
        file.extension().is_some_and(|it| it == "md") && !is_history
    });
    let read = |path: PathBuf| fs::read_to_string(&path).map(|text| (path, text));
    documents.map(read).collect::<Result<_, _>>().unwrap()
}

/// Returns the contents of code spans, without code blocks.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    let outside_blocks = text.split("```").step_by(2);
    outside_blocks.flat_map(|text| text.split('`').skip(1).step_by(2))
}

/// Expands `a/{b,c}.rs` to `a/b.rs` and `a/c.rs`.
fn alternatives(name: &str) -> Vec<String> {
    let Some((head, rest)) = name.split_once('{') else {
        return vec![name.to_owned()];
    };
    let (names, tail) = rest.split_once('}').unwrap_or((rest, ""));
    names
        .split(',')
        .map(|name| format!("{head}{name}{tail}"))
        .collect()
}

fn sources() -> Vec<(PathBuf, String)> {
    let files = files().into_iter();
    let sources = files.filter(|file| file.extension().is_some_and(|it| it == "rs" || it == "py"));
    let read = |path: PathBuf| fs::read_to_string(root().join(&path)).map(|text| (path, text));
    sources.map(read).collect::<Result<_, _>>().unwrap()
}

/// Returns the files of the repository, except hidden and generated files.
fn files() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_ignored = name == "target" || name == "node_modules";
            if is_ignored || name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                walk(&path, found)?;
            } else {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(&root(), &mut found).unwrap();
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}
