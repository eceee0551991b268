package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/flood"
)

// crowd bounds the connections that a front has open.
type crowd struct {
	// local and remote are the most of this machine, and of all others together: neither can take the room of the other.
	local, remote int
	// each is the most of one address of another machine.
	each int
	// silent is how many of one address, and fresh how many of other machines together, may be too young for the server to
	// know who they are.
	silent, fresh int
	// proven is the age at which the server would have ended one that has not proven who it is.
	proven time.Duration
}

func usualCrowd() crowd {
	return crowd{local: 2048, remote: 2048, each: 512, silent: 64, fresh: 512, proven: 8 * time.Second}
}

const (
	// insideWait bounds the way to the server, which is in this process.
	insideWait = 2 * time.Second
	// acceptPause is the wait after an error of the listener, as when there are no descriptors left.
	acceptPause = 100 * time.Millisecond
	passBytes   = 16 << 10
	// ageEvery is the least time between two looks at who is proven by now.
	ageEvery = 100 * time.Millisecond
)

// front takes connections in place of the NATS server, which cannot tell who fills it: it bounds what each address may hold
// before it is known, and joins the rest to the server. Where there is no room, the oldest of whoever has most of it makes
// some: who only connects keeps nobody out but itself.
type front struct {
	listener net.Listener
	inside   string // where the server listens, for this process
	most     crowd
	log      *slog.Logger
	said     flood.Complaints
	quit     chan struct{} // closed by shut
	running  sync.WaitGroup

	mu      sync.Mutex
	closed  bool                   // guarded by mu, as is the rest
	sources map[netip.Addr]*source // that have connections
	remote  int                    // connections of other machines
	fresh   int                    // those of them that are not proven
	aged    time.Time              // when all sources were looked at
}

// source is one address, or the network of one that changes its own at will.
type source struct {
	addr  netip.Addr
	local bool
	open  map[*guest]struct{}
	fresh []*guest // not proven yet, oldest first
}

// guest is one connection.
type guest struct {
	net.Conn
	from  *source
	since time.Time
}

// openFront listens on addr. The error has CodeConflict when the address is in use.
func openFront(ctx context.Context, addr string, most crowd, log *slog.Logger) (*front, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, addressInUse(addr)
	case err != nil:
		return nil, cluster.Errorf(cluster.CodeInvalid, "the bus cannot listen on %s: %v", addr, rootOf(err))
	}
	return &front{listener: l, most: most, log: log, quit: make(chan struct{}), sources: make(map[netip.Addr]*source)}, nil
}

// serve joins connections to the server at inside until close.
func (f *front) serve(inside string) {
	f.inside = inside
	f.running.Go(f.accept)
}

// shut takes no more connections.
func (f *front) shut() {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		close(f.quit)
	}
	f.mu.Unlock()
	_ = f.listener.Close() // accept sees it
}

func (f *front) isShut() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// close returns when nothing of it is left. The server has ended: what it had to say still goes out.
func (f *front) close() {
	f.shut()
	f.running.Wait()
}

func (f *front) accept() {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			select {
			case <-f.quit:
				return
			case <-time.After(acceptPause):
			}
			if before, ok := f.said.Say("accept", time.Now()); ok {
				f.log.Warn("bus cannot take connections", "before", before, "err", err)
			}
			continue
		}
		if g := f.enter(conn, time.Now()); g != nil {
			f.running.Go(func() {
				defer f.leave(g)
				f.join(g)
			})
		}
	}
}

// enter finds room for a connection, or ends it and returns nil.
func (f *front) enter(conn net.Conn, now time.Time) *guest {
	f.mu.Lock()
	defer f.mu.Unlock()
	addr := flood.SourceOf(conn)
	s := f.sources[addr]
	if s == nil {
		s = &source{addr: addr, local: addr.IsLoopback(), open: make(map[*guest]struct{})}
		f.sources[addr] = s
	}
	f.age(s, now)
	if f.fresh >= f.most.fresh && now.Sub(f.aged) >= ageEvery {
		f.aged = now
		for _, other := range f.sources {
			f.age(other, now)
		}
	}
	switch {
	case f.closed:
		_ = conn.Close() // nothing was said
		f.forget(s)
		return nil
	case s.local && len(s.open) >= f.most.local && len(s.fresh) == 0,
		!s.local && len(s.open) >= f.most.each && len(s.fresh) == 0,
		!s.local && f.remote >= f.most.remote && f.fresh == 0:
		_ = conn.Close() // nothing was said
		f.forget(s)
		if before, ok := f.said.Say("full", now); ok {
			f.log.Warn("bus refuses a connection: too many are open", "from", addr, "open", len(s.open), "before", before)
		}
		return nil
	case !s.local && (len(s.fresh) >= f.most.silent || len(s.open) >= f.most.each), s.local && len(s.open) >= f.most.local:
		f.evict(s)
	case !s.local && (f.fresh >= f.most.fresh || f.remote >= f.most.remote):
		f.evict(f.loudest())
	}
	g := &guest{Conn: conn, from: s, since: now}
	s.open[g] = struct{}{}
	s.fresh = append(s.fresh, g)
	if !s.local {
		f.remote++
		f.fresh++
	}
	return g
}

// age has those of a source be proven that are old enough.
func (f *front) age(s *source, now time.Time) {
	n := 0
	for n < len(s.fresh) && now.Sub(s.fresh[n].since) >= f.most.proven {
		n++
	}
	if n == 0 {
		return
	}
	s.fresh = append([]*guest{}, s.fresh[n:]...)
	if !s.local {
		f.fresh -= n
	}
}

// loudest is the source of another machine with the most connections that are not proven.
func (f *front) loudest() *source {
	var most *source
	for _, s := range f.sources {
		if !s.local && (most == nil || len(s.fresh) > len(most.fresh)) {
			most = s
		}
	}
	return most
}

// evict ends the oldest connection of a source that is not proven.
func (f *front) evict(s *source) {
	if before, ok := f.said.Say("fresh", time.Now()); ok {
		f.log.Warn("bus ends a connection that did not say whose it is: too many such are open", "from", s.addr, "open", len(s.fresh), "before", before)
	}
	g := s.fresh[0]
	f.remove(g)
	if tcp, ok := g.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // nothing of it is to be kept, in the system neither
	}
	_ = g.Close() // its copies end
}

func (f *front) leave(g *guest) {
	_ = g.Close() // it has ended
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(g)
}

// remove counts a connection no more; twice does no harm.
func (f *front) remove(g *guest) {
	s := g.from
	if _, ok := s.open[g]; !ok {
		return
	}
	delete(s.open, g)
	if !s.local {
		f.remote--
	}
	for i, x := range s.fresh {
		if x == g {
			s.fresh = append(s.fresh[:i], s.fresh[i+1:]...)
			if !s.local {
				f.fresh--
			}
			break
		}
	}
	f.forget(s)
}

func (f *front) forget(s *source) {
	if len(s.open) == 0 && f.sources[s.addr] == s {
		delete(f.sources, s.addr)
	}
}

// join copies both ways until either side ends.
func (f *front) join(g *guest) {
	server, err := (&net.Dialer{Timeout: insideWait}).DialContext(context.Background(), "tcp", f.inside)
	if err != nil {
		if before, ok := f.said.Say("inside", time.Now()); ok && !f.isShut() {
			f.log.Warn("bus cannot pass on a connection", "before", before, "err", err)
		}
		return
	}
	stop := sync.OnceFunc(func() {
		_, _ = server.Close(), g.Close() // both copies end
	})
	defer stop()
	if _, err := io.WriteString(server, header(g.Conn)); err != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer stop()
		_, _ = io.Copy(server, g.Conn) // either end is no error
	})
	pass(g.Conn, server)
	stop()
	wg.Wait()
}

// pass copies to a client, which has to read what comes as the server itself would want it to.
func pass(to, from net.Conn) {
	buf := make([]byte, passBytes)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			_ = to.SetWriteDeadline(time.Now().Add(writeWait)) // the write fails as well
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// header tells the server, by the PROXY protocol, whose connection it is.
func header(c net.Conn) string {
	from, err1 := netip.ParseAddrPort(c.RemoteAddr().String())
	to, err2 := netip.ParseAddrPort(c.LocalAddr().String())
	if err1 != nil || err2 != nil {
		return "PROXY UNKNOWN\r\n"
	}
	src, dst := from.Addr().Unmap().WithZone(""), to.Addr().Unmap().WithZone("")
	kind := "TCP4"
	if src.Is6() {
		kind = "TCP6"
	}
	return fmt.Sprintf("PROXY %s %s %s %d %d\r\n", kind, src, dst, from.Port(), to.Port())
}
