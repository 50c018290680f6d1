//! The program at clsact ingress, as on kernels without TCX.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod lab;

use convey_bpf::tables::Method;
use convey_testkit::netns::{Netns, cable, ping};
use convey_xdp::kernel::{Hook, Kernel, remove_filter};
use convey_xdp::{netlink, next_handle};
use lab::{Lab, frontend, image, path, server, sizes};

fn lab() -> Lab {
    let frontends = vec![Some(frontend("10.9.0.1:80", 0, &["10.9.0.1"]))];
    let servers = vec![server("10.1.0.1:80", Method::Nat)];
    Lab::new(Hook::Tc, &sizes(true), &image(frontends, servers, vec![path("10.9.0.1", "10.1.0.1:80", 6)]))
}

#[test]
#[ignore = "needs root, ip, tc: makes network namespaces, loads kernel programs"]
fn a_filter_decides_leaves_to_others_what_is_not_ours_and_ends_when_it_is_told_to() {
    let (host, client) = (Netns::new("host"), Netns::new("client"));
    cable(&host, &client);
    let (mut lab, index, handle) = host.enter(|| {
        let index = netlink::interface_index("veth0").unwrap().unwrap();
        netlink::add_clsact(index).unwrap();
        let mut lab = lab();
        let handle = next_handle(index, netlink::Hook::Ingress).unwrap();
        lab.kernel.attach_filter(index, handle).unwrap();
        lab.kernel.attach_filter(index, handle).unwrap();
        (lab, index, handle)
    });
    let filters = || host.exec("tc filter show dev veth0 ingress");
    assert_eq!(filters().lines().filter(|line| line.contains("convey_tc")).count(), 1);
    assert!(client.enter(|| ping("10.9.0.1")), "what is not ours goes on to the kernel");
    let connect = || {
        client.enter(|| {
            let to = "10.9.0.1:80".parse().unwrap();
            std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_millis(300))
                .unwrap_err()
                .kind()
        })
    };
    assert_eq!(connect(), std::io::ErrorKind::TimedOut, "the kernel would refuse it");
    assert!(lab.counted("flow_begun") > 0);
    lab = host.enter(move || {
        lab.kernel.detach(index);
        lab
    });
    assert!(!filters().contains("convey_tc"));
    assert_eq!(connect(), std::io::ErrorKind::ConnectionRefused);
    // A process that is killed detaches nothing.
    host.enter(move || {
        lab.kernel.attach_filter(index, handle).unwrap();
        std::mem::forget(lab);
    });
    assert_eq!(filters().lines().filter(|line| line.contains("convey_tc")).count(), 1);
    host.enter(move || {
        assert!(remove_filter(index, handle).unwrap());
        assert!(!remove_filter(index, handle).unwrap(), "once");
        drop(Kernel::load(Hook::Tc, &sizes(true)).unwrap());
    });
    assert!(!filters().contains("convey_tc"));
}
