package reach

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// deniedWithin is how soon a system that lets nobody out says so. A host that is not there takes seconds.
const deniedWithin = 50 * time.Millisecond

// stage is how far a try came.
type stage int

const (
	stageTCP stage = iota
	stageTLS
)

// failure is what became of one address.
type failure struct {
	addr   string
	err    error
	stage  stage
	denied bool
}

// isForeign says whether somebody answered who is not the controller.
func (f *failure) isForeign() bool {
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	return f.stage == stageTLS && (errors.As(f.err, &certificate) || errors.As(f.err, &record))
}

// answered says whether there was an answer from the local network, a refusal as well.
func (f *failure) answered() bool {
	host, _, err := net.SplitHostPort(f.addr)
	if err != nil || host == "localhost" {
		return false
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() {
		return false
	}
	return f.stage == stageTLS || errors.Is(f.err, syscall.ECONNREFUSED)
}

// verdict says in one error why there is no connection, and whether the system denies it.
func verdict(failed []*failure) (err *cluster.Error, denied bool) {
	var foreign, barred *failure
	var rest []*failure
	answered := false
	for _, f := range failed {
		answered = answered || f.answered()
		switch {
		case f.isForeign() && foreign == nil:
			foreign = f
		case f.denied && barred == nil:
			barred = f
		case !f.isForeign() && !f.denied:
			rest = append(rest, f)
		}
	}
	switch {
	case barred != nil && !answered:
		return cluster.Errorf(cluster.CodeUnreachable,
			"the system lets this process dial nobody on the local network: no route to host, at once, to %s", barred.addr).
			WithHint("on macOS, allow mlxctl under System Settings → Privacy & Security → Local Network, " +
				"or run the agent as a launch daemon, which needs no permission"), true
	case foreign != nil && len(rest) == 0:
		return another(foreign), false
	case len(rest) > 0:
		f := rest[0]
		e := cluster.Errorf(cluster.CodeUnreachable, "cannot reach the controller at %s: %s", addresses(rest), f.why())
		if foreign != nil {
			e.Message += "; " + another(foreign).Message
		}
		return e.WithHint("is the controller running, and on the same network?"), false
	case barred != nil:
		return cluster.Errorf(cluster.CodeUnreachable, "cannot reach the controller at %s: no route to host", barred.addr), false
	}
	return cluster.Errorf(cluster.CodeUnreachable, "no address of the controller is known").
		WithHint("is the controller running, and on the same network?"), false
}

func another(f *failure) *cluster.Error {
	if _, plain := errors.AsType[tls.RecordHeaderError](f.err); plain {
		return cluster.Errorf(cluster.CodeUnauthorized, "another service answers at %s: it does not start with TLS", f.addr).
			WithHint("check the address of the controller")
	}
	return cluster.Errorf(cluster.CodeUnauthorized, "another cluster answers at %s: its certificate is not of this cluster", f.addr).
		WithHint("check the address of the controller; to move this node to that cluster, install it from there")
}

func (f *failure) why() string {
	var op *net.OpError
	var network net.Error
	var dns *net.DNSError
	switch {
	case errors.Is(f.err, context.DeadlineExceeded), errors.As(f.err, &network) && network.Timeout():
		return "no answer"
	case errors.Is(f.err, context.Canceled):
		return "given up"
	case errors.As(f.err, &dns):
		return "its name is not known here"
	case errors.As(f.err, &op) && op.Err != nil:
		err := op.Err
		for errors.Unwrap(err) != nil {
			err = errors.Unwrap(err)
		}
		return err.Error()
	case f.stage == stageTLS:
		return "it ended the connection: " + f.err.Error()
	}
	return f.err.Error()
}

func addresses(failed []*failure) string {
	const most = 4
	var out []string
	for _, f := range failed[:min(len(failed), most)] {
		out = append(out, f.addr)
	}
	if len(failed) > most {
		out = append(out, "…")
	}
	return strings.Join(out, ", ")
}

// looksDenied says whether a dial failed as those do that a system does not let out: at once, to a neighbour.
func looksDenied(err error, took time.Duration) bool {
	if took >= deniedWithin || !errors.Is(err, syscall.EHOSTUNREACH) {
		return false
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Addr == nil {
		return false
	}
	to, err := netip.ParseAddrPort(op.Addr.String())
	return err == nil && isNeighbour(to.Addr().Unmap())
}

// isNeighbour says whether an address is of a local network: by its kind, or because this machine has one next to it.
func isNeighbour(ip netip.Addr) bool {
	switch {
	case ip.IsLoopback():
		return false
	case ip.IsPrivate(), ip.IsLinkLocalUnicast():
		return true
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Contains(ip.WithZone("")) {
			return true
		}
	}
	return false
}
