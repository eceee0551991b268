package reach

import (
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	// stagger is how much later than the one before each address is tried: enough that the usual one wins alone.
	stagger = 50 * time.Millisecond
	// localLookup bounds the look-up of a ".local" name where Go cannot do it: Discover will have to.
	localLookup = 500 * time.Millisecond
)

// proven is a connection whose far end has shown a certificate of the cluster.
type proven struct {
	*tls.Conn
	addr    string // that was dialled, or who called
	reverse bool
	at      time.Time
}

// way is one way to get a connection.
type way func(ctx context.Context) (*proven, error)

// first opens ways side by side, each one pace after the one before or when one has failed, and returns the first
// connection; the others are closed. It returns when all of them have ended: with the errors by way, where there is none.
func first(ctx context.Context, pace time.Duration, ways []way) (*proven, []error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type end struct {
		way  int
		conn *proven
		err  error
	}
	ends := make(chan end, len(ways))
	errs := make([]error, len(ways))
	started, ended := 0, 0
	next := time.NewTimer(0)
	defer next.Stop()
	start := func() {
		if started == len(ways) {
			return
		}
		i := started
		started++
		wg.Go(func() {
			conn, err := ways[i](ctx)
			ends <- end{i, conn, err}
		})
		next.Reset(pace)
	}
	for ended < len(ways) {
		select {
		case <-next.C:
			start()
		case e := <-ends:
			ended++
			if errs[e.way] = e.err; e.err != nil {
				start()
				continue
			}
			cancel()
			wg.Wait()
			close(ends)
			for late := range ends {
				if late.conn != nil {
					_ = late.conn.Close() // nobody used it
				}
			}
			return e.conn, nil
		}
	}
	return nil, errs
}

// race dials addresses and returns the first connection to the controller, or what became of each.
func (d *Dialer) race(ctx context.Context, addrs []string) (*proven, []*failure) {
	ways := make([]way, len(addrs))
	failed := make([]*failure, len(addrs))
	for i, addr := range addrs {
		ways[i] = func(ctx context.Context) (*proven, error) {
			conn, f := d.try(ctx, addr)
			if f != nil {
				failed[i] = f
				return nil, f.err
			}
			return conn, nil
		}
	}
	conn, _ := first(ctx, stagger, ways)
	return conn, failed
}

// try dials one address.
func (d *Dialer) try(ctx context.Context, addr string) (*proven, *failure) {
	if runtime.GOOS != "darwin" && isLocalName(addr) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, localLookup)
		defer cancel()
	}
	conn, denied, err := dial(ctx, addr)
	if err != nil {
		return nil, &failure{addr: addr, err: err, denied: denied, stage: stageTCP}
	}
	secure := tls.Client(conn, d.secure)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // the error of the handshake says more
		return nil, &failure{addr: addr, err: err, stage: stageTLS}
	}
	return &proven{Conn: secure, addr: addr, at: time.Now()}, nil
}

// dial opens a TCP connection, and says whether it was the system that did not let it.
func dial(ctx context.Context, addr string) (conn net.Conn, denied bool, err error) {
	began := time.Now()
	conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if !looksDenied(err, time.Since(began)) {
		return conn, false, err
	}
	// A neighbour that did not answer the system in time ends in the same error, once: the next try asks it anew.
	began = time.Now()
	soon, cancel := context.WithTimeout(ctx, deniedWithin)
	defer cancel()
	conn, again := (&net.Dialer{}).DialContext(soon, "tcp", addr)
	switch {
	case again == nil:
		return conn, false, nil
	case looksDenied(again, time.Since(began)):
		return nil, true, again
	}
	return nil, false, err
}

func isLocalName(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && strings.HasSuffix(strings.TrimSuffix(host, "."), ".local")
}

// hostPort is the address in a URL; empty where there is none.
func hostPort(u string) string {
	parsed, err := url.Parse(u)
	if err != nil || parsed.Hostname() == "" || parsed.Port() == "" {
		return ""
	}
	return net.JoinHostPort(parsed.Hostname(), parsed.Port())
}
