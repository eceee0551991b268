package bonjour

import (
	"context"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Services that are told apart from the others.
const (
	remoteLogin = "_ssh._tcp"
	workstation = "_workstation._tcp" // a Linux host
)

// macServices are what Macs and other hosts advertise, those first whose name is the computer's own.
func macServices() []string {
	return []string{
		remoteLogin, "_sftp-ssh._tcp", "_rfb._tcp", "_smb._tcp", "_companion-link._tcp", "_airplay._tcp", "_rdlink._tcp", workstation,
	}
}

// modelKey is where the TXT record of a service names the model.
func modelKey(service string) string {
	switch service {
	case "_airplay._tcp":
		return "model"
	case "_companion-link._tcp":
		return "rpmd"
	}
	return ""
}

var macModel = regexp.MustCompile(`^i?Mac`)

// Mac is a host of the local network as it describes itself. All of it is a hint; the texts are safe to show.
type Mac struct {
	Name     string // "Fred’s MacBook Pro"
	HostName string // "freds-macbook-pro.local"; empty where it is none that a program could be given
	// Addrs are where it may be reached, best first; link-local ones of IPv6 have a zone.
	Addrs []netip.Addr
	Port  int // of SSH; zero without RemoteLogin
	// RemoteLogin says that it accepts SSH. A Mac without is listed so that its owner can be told the setting.
	RemoteLogin bool
	Model       string   // "Mac16,10"; empty where it does not say
	Seen        []string // services that it was seen by
	Self        bool     // has an address of this machine
}

// ScanOptions say how to scan. The zero value is a scan of DefaultScan that tells nothing on the way.
type ScanOptions struct {
	For time.Duration // zero means DefaultScan
	Log *slog.Logger  // nil is silent
	// Found, where set, is told of a Mac as soon as it can be used, and again when more is known of it. It is called by
	// Scan itself, one at a time, and should not wait.
	Found func(Mac)
}

// DefaultScan is how long a scan takes: long enough for a second question after a lost packet.
const DefaultScan = 3 * time.Second

// Scan asks the local network who is there, for a while, and lists the answers by name; the same Mac on several
// interfaces or by several services is one. Silence is no error: where multicast is filtered nobody is found. The error
// is a *cluster.Error where this machine cannot even ask.
func Scan(ctx context.Context, o ScanOptions) ([]Mac, error) {
	if o.For <= 0 {
		o.For = DefaultScan
	}
	scanCtx, cancel := context.WithTimeout(ctx, o.For)
	defer cancel()
	told := map[string]Mac{}
	b, err := gather(scanCtx, macServices(), o.Log, func(b *book) {
		if o.Found == nil {
			return
		}
		for _, m := range b.macs() {
			if before, ok := told[m.host]; ok && !m.adds(before) {
				continue
			}
			told[m.host] = m.Mac
			o.Found(m.Mac)
		}
	})
	if err != nil {
		return nil, err
	}
	var out []Mac
	for _, m := range b.macs() {
		out = append(out, m.Mac)
	}
	return out, context.Cause(ctx)
}

// adds says whether m has something that matters and that before had not.
func (m *Mac) adds(before Mac) bool {
	return m.RemoteLogin != before.RemoteLogin || m.Model != before.Model || slices.ContainsFunc(m.Addrs, func(ip netip.Addr) bool {
		return !slices.Contains(before.Addrs, ip)
	})
}

// gather asks for services until ctx ends; changed is told, one call at a time, when the book says more than before.
func gather(ctx context.Context, services []string, log *slog.Logger, changed func(*book)) (*book, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	n, err := readNetwork()
	if err != nil {
		return nil, cluster.Errorf(cluster.CodeInternal, "cannot list the network interfaces: %v", err)
	}
	if len(n.interfaces) == 0 {
		return nil, cluster.Errorf(cluster.CodeUnreachable, "this machine is on no local network: no interface is up that can multicast").
			WithHint("connect it to the network of the other Macs, or name them: `mlxctl up user@host`")
	}
	b := newBook(n, services)
	heard := make(chan []record, 64) // so that a burst of answers does not wait for whoever is told of them
	ctx, cancel := context.WithCancel(ctx)
	var run sync.WaitGroup
	defer run.Wait()
	defer cancel()
	for _, service := range services {
		for _, family := range []string{"udp4", "udp6"} {
			run.Go(func() { browse(ctx, b, service, family, heard, log) })
		}
	}
	asked := &sends{}
	for _, family := range []string{"udp4", "udp6"} {
		run.Go(func() { query(ctx, b, family, heard, asked, log) })
	}
	for {
		select {
		case <-ctx.Done():
			return b, asked.denied()
		case records := <-heard:
			if b.add(records) {
				changed(b)
			}
		}
	}
}

// hand passes records on unless ctx ends first.
func hand(ctx context.Context, heard chan<- []record, records []record) {
	if len(records) == 0 {
		return
	}
	select {
	case heard <- records:
	case <-ctx.Done():
	}
}
