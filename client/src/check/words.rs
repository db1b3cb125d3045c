//! What is told of a server, in the languages that are spoken here.

use std::borrow::Cow;

use clap::ValueEnum;

/// What is said in this case: the same sentence twice, with the same figures in it, as `format!` takes them.
macro_rules! words {
    ($en:literal, $zh:literal) => {
        $crate::check::words::Words { en: format!($en).into(), zh: format!($zh).into() }
    };
}

pub(crate) use words;

/// A language.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// English.
    #[default]
    En,
    /// Chinese.
    Zh,
}

impl Language {
    /// That of the user's environment (locale(7)): the first of LC_ALL, LC_MESSAGES and LANG that says anything.
    pub fn of_environment() -> Self {
        let told = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().filter_map(|name| std::env::var(name).ok());
        let is_chinese = |locale: &String| locale.starts_with("zh");
        if told.into_iter().find(|locale| !locale.is_empty()).is_some_and(|locale| is_chinese(&locale)) {
            Self::Zh
        } else {
            Self::En
        }
    }
}

/// The same in each language. Made by [`words!`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// In English.
    pub en: Cow<'static, str>,
    /// In Chinese.
    pub zh: Cow<'static, str>,
}

impl Words {
    /// What is said in every case alike.
    pub const fn of(en: &'static str, zh: &'static str) -> Self {
        Self { en: Cow::Borrowed(en), zh: Cow::Borrowed(zh) }
    }

    /// This, and then that.
    pub fn and(&self, then: &Self) -> Self {
        let ([en, then_en], [zh, then_zh]) = ([&self.en, &then.en], [&self.zh, &then.zh]);
        words!("{en}; {then_en}", "{zh}；{then_zh}")
    }

    /// In one language.
    pub fn told(&self, language: Language) -> &str {
        match language {
            Language::En => &self.en,
            Language::Zh => &self.zh,
        }
    }
}
