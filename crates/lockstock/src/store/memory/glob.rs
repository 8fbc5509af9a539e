//! Glob patterns with the semantics of Redis: `*`, `?`, `[abc]`, `[a-c]`, `[^a]`, and `\` before a
//! byte that stands for itself.

use std::iter::Peekable;
use std::slice::Iter;

#[derive(Debug, Clone)]
pub(super) struct Glob {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// Any number of bytes.
    Any,
    /// One byte of a set.
    One(Set),
}

#[derive(Debug, Clone, PartialEq)]
struct Set {
    /// First and last byte of each range.
    ranges: Vec<(u8, u8)>,
    is_negated: bool,
}

impl Glob {
    /// Every pattern is valid: what is incomplete at its end is read as Redis does.
    pub(super) fn new(pattern: &[u8]) -> Self {
        let mut steps = Vec::new();
        let mut pattern = pattern.iter().peekable();
        while let Some(&byte) = pattern.next() {
            steps.push(match byte {
                b'*' if steps.last() == Some(&Step::Any) => continue,
                b'*' => Step::Any,
                b'?' => Step::One(Set::all_but(Vec::new())),
                b'[' => Step::One(Set::parse(&mut pattern)),
                b'\\' => Step::One(Set::of(*pattern.next().unwrap_or(&byte))),
                _ => Step::One(Set::of(byte)),
            });
        }
        Self { steps }
    }

    /// Takes at most time proportional to the product of both lengths.
    pub(super) fn matches(&self, text: &[u8]) -> bool {
        let (mut step, mut at) = (0, 0);
        // The last `*`, and where the text continues after what it stands for.
        let mut any = None::<(usize, usize)>;
        while at < text.len() {
            match self.steps.get(step) {
                Some(Step::Any) => {
                    any = Some((step, at));
                    step += 1;
                }
                Some(Step::One(set)) if set.contains(text[at]) => {
                    step += 1;
                    at += 1;
                }
                // The last `*` stands for one more byte. An earlier one need not: what it leaves to
                // the later ones is only shorter.
                _ => {
                    let Some((star, continues)) = any else {
                        return false;
                    };
                    any = Some((star, continues + 1));
                    step = star + 1;
                    at = continues + 1;
                }
            }
        }
        self.steps[step..].iter().all(|step| *step == Step::Any)
    }
}

impl Set {
    fn of(byte: u8) -> Self {
        Self {
            ranges: vec![(byte, byte)],
            is_negated: false,
        }
    }

    fn all_but(ranges: Vec<(u8, u8)>) -> Self {
        Self {
            ranges,
            is_negated: true,
        }
    }

    /// Parses a set after its `[`, to its `]` or to the end of the pattern.
    fn parse(pattern: &mut Peekable<Iter<'_, u8>>) -> Self {
        let is_negated = pattern.next_if(|&&byte| byte == b'^').is_some();
        let mut ranges = Vec::new();
        while let Some(&byte) = pattern.next() {
            let mut rest = pattern.clone();
            match (byte, rest.next(), rest.next()) {
                // Begins no range, and escapes nothing at the end of the pattern.
                (b'\\', Some(&escaped), _) => {
                    ranges.push((escaped, escaped));
                    pattern.next();
                }
                (b']', ..) => break,
                // Even if the last byte is a `]` or a `\`.
                (first, Some(b'-'), Some(&last)) => {
                    ranges.push((first.min(last), first.max(last)));
                    *pattern = rest;
                }
                (byte, ..) => ranges.push((byte, byte)),
            }
        }
        Self { ranges, is_negated }
    }

    fn contains(&self, byte: u8) -> bool {
        let is_within = |&(first, last): &(u8, u8)| (first..=last).contains(&byte);
        self.ranges.iter().any(is_within) != self.is_negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_as_redis_reads_them() {
        // Whether Redis agrees: `patterns_match_the_same_keys_as_in_redis` in tests/cache/keys.rs.
        for (pattern, matching, others) in [
            ("*", vec!["", "a", "ab"], vec![]),
            ("a?c", vec!["abc", "a?c"], vec!["ac", "abbc"]),
            ("a*c", vec!["ac", "abc", "acc"], vec!["acb"]),
            ("*a*b", vec!["ab", "xaxb", "aabab"], vec!["ba"]),
            ("[a-c]", vec!["a", "b", "c"], vec!["d", "", "-"]),
            ("[c-a]", vec!["b"], vec!["d"]),
            ("[^a]", vec!["b", "^"], vec!["a", ""]),
            ("[a^]", vec!["a", "^"], vec!["b"]),
            (r"\*\[", vec!["*["], vec!["a[", r"\*["]),
            (r"[\]-]", vec!["]", "-"], vec![r"\"]),
            (r"\", vec![r"\"], vec![""]),
            ("[", vec![], vec!["[", ""]),
            ("[a", vec!["a"], vec!["[a"]),
        ] {
            let glob = Glob::new(pattern.as_bytes());
            for text in matching {
                assert!(glob.matches(text.as_bytes()), "{pattern} {text}");
            }
            for text in others {
                assert!(!glob.matches(text.as_bytes()), "{pattern} {text}");
            }
        }
    }
}
