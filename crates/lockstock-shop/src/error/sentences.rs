//! Messages in English and in Korean, side by side.
//!
//! The sentences of Django REST framework (DRF), Django and django-filter have the wording of
//! their releases in both languages, also where a translation is imperfect: clients may compare
//! it. `tests/differential.rs` compares both languages with a Django project.

use std::borrow::Cow;

use lockstock_http::Language;

/// A message in each language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sentence {
    english: Cow<'static, str>,
    /// `None` if there is no translation: the message is then in English.
    korean: Option<Cow<'static, str>>,
}

impl Sentence {
    pub(crate) fn new(
        english: impl Into<Cow<'static, str>>,
        korean: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            english: english.into(),
            korean: Some(korean.into()),
        }
    }

    const fn fixed(english: &'static str, korean: &'static str) -> Self {
        Self {
            english: Cow::Borrowed(english),
            korean: Some(Cow::Borrowed(korean)),
        }
    }

    /// Returns the text in `language`.
    pub(crate) fn into_text(self, language: Language) -> Cow<'static, str> {
        match (language, self.korean) {
            (Language::Korean, Some(korean)) => korean,
            _ => self.english,
        }
    }
}

/// A message that has no translation, such as the error of a parser.
impl<T: Into<Cow<'static, str>>> From<T> for Sentence {
    fn from(english: T) -> Self {
        Self {
            english: english.into(),
            korean: None,
        }
    }
}

// DRF: requests.

pub(crate) const NOT_AUTHENTICATED: Sentence = Sentence::fixed(
    "Authentication credentials were not provided.",
    "자격 인증 데이터가 제공되지 않았습니다.",
);

pub(crate) const TOKEN_MISSING: Sentence = Sentence::fixed(
    "Invalid token header. No credentials provided.",
    "토큰 헤더가 유효하지 않습니다. 인증 데이터가 제공되지 않았습니다.",
);

pub(crate) const TOKEN_WITH_SPACES: Sentence = Sentence::fixed(
    "Invalid token header. Token string should not contain spaces.",
    "토큰 헤더가 유효하지 않습니다. 토큰 문자열은 공백을 포함하지 않아야 합니다.",
);

pub(crate) const TOKEN_WITH_INVALID_CHARACTERS: Sentence = Sentence::fixed(
    "Invalid token header. Token string should not contain invalid characters.",
    "토큰 헤더가 유효하지 않습니다. 토큰 문자열은 유효하지 않은 문자를 포함하지 않아야 합니다.",
);

pub(crate) const INVALID_TOKEN: Sentence =
    Sentence::fixed("Invalid token.", "토큰이 유효하지 않습니다.");

pub(crate) const PERMISSION_DENIED: Sentence = Sentence::fixed(
    "You do not have permission to perform this action.",
    "이 작업을 수행할 권한이 없습니다.",
);

pub(crate) const NOT_FOUND: Sentence = Sentence::fixed("Not found.", "찾을 수 없습니다.");

pub(crate) const INVALID_PAGE: Sentence =
    Sentence::fixed("Invalid page.", "페이지가 유효하지 않습니다.");

pub(crate) const NOT_ACCEPTABLE: Sentence = Sentence::fixed(
    "Could not satisfy the request Accept header.",
    "요청 Accept 헤더를 만족시킬 수 없습니다.",
);

pub(crate) fn method_not_allowed(method: &str) -> Sentence {
    Sentence::new(
        format!("Method \"{method}\" not allowed."),
        format!("메서드 \"{method}\"는 허용되지 않습니다."),
    )
}

pub(crate) fn unsupported_media_type(media_type: &str) -> Sentence {
    Sentence::new(
        format!("Unsupported media type \"{media_type}\" in request."),
        format!("요청된 \"{media_type}\"가 지원되지 않는 미디어 형태입니다."),
    )
}

pub(crate) fn throttled(seconds: u64) -> Sentence {
    let unit = if seconds == 1 { "second" } else { "seconds" };
    Sentence::new(
        format!("Request was throttled. Expected available in {seconds} {unit}."),
        format!("요청이 제한되었습니다. {seconds} 초 후에 사용 가능합니다."),
    )
}

/// Of Django, which does not translate it.
pub(crate) fn no_match(resource: &str) -> Sentence {
    format!("No {resource} matches the given query.").into()
}

// The list of locks.

pub(crate) const INVALID_DURATION: Sentence = Sentence::fixed(
    "Enter a number and a unit, like 500ms or 3s.",
    "500ms, 3s와 같이 숫자와 단위를 입력하세요.",
);

pub(crate) const INVALID_HOLDER: Sentence = Sentence::fixed(
    "Enter the token of a holder: 32 hexadecimal digits.",
    "보유자의 토큰(16진수 32자리)을 입력하세요.",
);

// DRF: bodies and fields.

pub(crate) const REQUIRED: Sentence =
    Sentence::fixed("This field is required.", "이 필드는 필수 항목입니다.");

pub(crate) const NULL: Sentence = Sentence::fixed(
    "This field may not be null.",
    "이 필드는 null일 수 없습니다.",
);

pub(crate) const BLANK: Sentence = Sentence::fixed(
    "This field may not be blank.",
    "이 필드는 blank일 수 없습니다.",
);

pub(crate) const NOT_A_STRING: Sentence =
    Sentence::fixed("Not a valid string.", "유효한 문자열이 아닙니다.");

pub(crate) const NOT_AN_INTEGER: Sentence =
    Sentence::fixed("A valid integer is required.", "유효한 정수를 입력하세요.");

pub(crate) const TEXT_TOO_LARGE: Sentence =
    Sentence::fixed("String value too large.", "문자열 값이 너무 깁니다.");

/// Of Django, whose translation ends in a space.
pub(crate) const NULL_CHARACTERS: Sentence = Sentence::fixed(
    "Null characters are not allowed.",
    "null 문자는 사용할 수 없습니다. ",
);

pub(crate) fn too_long(max_length: usize) -> Sentence {
    Sentence::new(
        format!("Ensure this field has no more than {max_length} characters."),
        format!("이 필드의 글자 수가 {max_length} 이하인지 확인하세요."),
    )
}

pub(crate) fn too_small(min_value: i64) -> Sentence {
    Sentence::new(
        format!("Ensure this value is greater than or equal to {min_value}."),
        format!("이 값이 {min_value}보다 크거나 같은지 확인하세요."),
    )
}

pub(crate) fn too_great(max_value: i64) -> Sentence {
    Sentence::new(
        format!("Ensure this value is less than or equal to {max_value}."),
        format!("이 값이 {max_value}보다 작거나 같은지 확인하세요."),
    )
}

/// `kind` is the name of a type in Python.
pub(crate) fn not_an_object(kind: &str) -> Sentence {
    Sentence::new(
        format!("Invalid data. Expected a dictionary, but got {kind}."),
        format!("유효하지 않은 데이터. 딕셔너리(dictionary)대신 {kind}를 받았습니다."),
    )
}

// Django's forms, which django-filter validates with.

pub(crate) const NOT_A_NUMBER: Sentence = Sentence::fixed("Enter a number.", "숫자를 입력하세요.");

pub(crate) const FILTER_TOO_GREAT: Sentence = Sentence::fixed(
    "Ensure this value is less than or equal to 1e+50.",
    "1e+50 이하의 값을 입력해 주세요.",
);

// Lockstock's own, without a code.

pub(crate) const INVALID: Sentence =
    Sentence::fixed("The request is not valid.", "요청이 올바르지 않습니다.");

pub(crate) const BODY_ENDED_EARLY: Sentence = Sentence::fixed(
    "The request body ended early.",
    "요청 본문이 중간에 끊겼습니다.",
);

pub(crate) const HOST_REQUIRED: Sentence = Sentence::fixed(
    "A request must name exactly one Host.",
    "요청에는 Host 헤더가 정확히 하나 있어야 합니다.",
);

pub(crate) const SEARCH_TOO_LONG: Sentence =
    Sentence::fixed("The search is too long.", "검색어가 너무 깁니다.");
