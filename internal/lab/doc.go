// Package lab makes a network of Macs, as far as Linux can: hosts out of namespaces, each with its own network, name,
// machine id, users, files, processes, sshd, multicast responder and service folder, on a bridge that touches nothing of
// the machine's network. They can be broken in the ways that real ones break. It is for tests and needs root.
//
// Everything lives in namespaces that one process holds, and that process ends when its maker does: a lab leaves
// nothing behind, however its test ended. The machine's own folders are seen by the hosts read-only, and only /usr.
//
// What it cannot show: a host's clock is wrong for whoever asks date, and right for whoever asks the kernel.
package lab
