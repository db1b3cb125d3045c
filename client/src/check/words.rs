//! What is told of a server, in the languages that are spoken here.

use std::{borrow::Cow, os::unix::process::ExitStatusExt, process::ExitStatus};

use clap::ValueEnum;
use nix::sys::signal::Signal;

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

    /// How a process has ended (wait(2)).
    pub fn of_end(status: ExitStatus) -> Self {
        let zh = match (status.code(), status.signal()) {
            (Some(code), _) => format!("退出状态 {code}"),
            (None, Some(signal)) => {
                let name = Signal::try_from(signal).map_or_else(|_| signal.to_string(), |it| it.to_string());
                format!("被信号 {name} 终止")
            }
            (None, None) => status.to_string(),
        };
        words!("{status}", "{zh}")
    }

    /// In one language.
    pub fn told(&self, language: Language) -> &str {
        match language {
            Language::En => &self.en,
            Language::Zh => &self.zh,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_process_has_ended_is_told_in_both_languages() {
        for (raw, en, zh) in [
            (0, "exit status: 0", "退出状态 0"),
            (3 << 8, "exit status: 3", "退出状态 3"),
            (11, "signal: 11 (SIGSEGV)", "被信号 SIGSEGV 终止"),
            (40, "signal: 40", "被信号 40 终止"),
        ] {
            let Words { en: told_en, zh: told_zh } = Words::of_end(ExitStatus::from_raw(raw));
            assert!(told_en.starts_with(en) && told_zh == zh, "{told_en}, {told_zh}");
        }
    }
}
