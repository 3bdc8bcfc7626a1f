//! Error numbers by name, as profiles of containers-common use them; the same on every architecture that podd runs on.

/// The names from 1 on; blank where there is none.
const NAMES: &str = "EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY \
    EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE \
    EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP - ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI \
    EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT - EBFONT ENOSTR ENODATA ETIME ENOSR ENONET ENOPKG EREMOTE ENOLINK EADV \
    ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD ELIBSCN ELIBMAX ELIBEXEC \
    EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT \
    EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET \
    ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE \
    EUCLEAN ENOTNAM ENAVAIL EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED \
    EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON";

/// The number of an error.
pub(super) fn number(name: &str) -> Option<u32> {
    match name {
        "EWOULDBLOCK" => number("EAGAIN"),
        "EDEADLOCK" => number("EDEADLK"),
        "ENOTSUP" => number("EOPNOTSUPP"),
        "-" => None,
        name => NAMES.split_whitespace().zip(1..).find(|(known, _)| *known == name).map(|(_, number)| number),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn the_names_have_the_kernels_numbers() {
        for (name, errno) in [
            ("EPERM", Errno::PERM),
            ("ENOSYS", Errno::NOSYS),
            ("ENOMSG", Errno::NOMSG),
            ("EBFONT", Errno::BFONT),
            ("EAFNOSUPPORT", Errno::AFNOSUPPORT),
            ("EHWPOISON", Errno::HWPOISON),
            ("ENOTSUP", Errno::NOTSUP),
        ] {
            assert_eq!(number(name).map(i32::try_from), Some(Ok(errno.raw_os_error())), "{name}");
        }
        assert_eq!((number("-"), number("ENOTHING")), (None, None));
    }
}
