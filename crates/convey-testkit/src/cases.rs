//! The fixtures of this project, written down as what goes in and what must come out.
