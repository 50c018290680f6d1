//! What a failed send is counted as.

use std::io;

use convey_engine::Loss;

/// The loss behind a failed send.
pub fn of(error: &io::Error) -> Loss {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Loss::TxQueueFull,
        Some(libc::ENOBUFS | libc::ENOMEM) => Loss::TxNoBuffer,
        Some(libc::EMSGSIZE) => Loss::TxTooBig,
        Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => Loss::TxLinkDown,
        _ => Loss::TxFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_send_is_counted_by_its_cause() {
        let loss = |errno| of(&io::Error::from_raw_os_error(errno));
        assert_eq!(loss(libc::EAGAIN), Loss::TxQueueFull);
        assert_eq!(loss(libc::ENOBUFS), Loss::TxNoBuffer);
        assert_eq!(loss(libc::EMSGSIZE), Loss::TxTooBig);
        assert_eq!(loss(libc::ENETDOWN), Loss::TxLinkDown);
        assert_eq!(loss(libc::EINVAL), Loss::TxFailed);
    }
}
