//! The messages of an error that is not rendered as a response, but about a file.

use lockstock_http::Language;

use super::sentences::Sentence;
use super::{ApiError, ErrorBody};

impl ApiError {
    /// Returns the messages in English, each with the name of the field that it is about.
    pub(crate) fn into_messages(self) -> Vec<(Option<String>, String)> {
        let text = |sentence: Sentence| sentence.into_text(Language::English).into_owned();
        match self.0.body {
            ErrorBody::Detail(message) | ErrorBody::Coded { message, .. } => {
                vec![(None, text(message))]
            }
            ErrorBody::Messages(messages) => {
                let messages = messages.into_iter();
                messages.map(|message| (None, text(message))).collect()
            }
            ErrorBody::Fields(fields) => fields
                .into_iter()
                .flat_map(|(name, messages)| {
                    let messages = messages.into_iter();
                    messages.map(move |message| (Some(name.clone()), text(message)))
                })
                .collect(),
        }
    }
}
