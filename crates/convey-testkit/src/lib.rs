//! Packet builders and fixtures for the tests of every engine. Never part of a release.
#![forbid(unsafe_code)]
