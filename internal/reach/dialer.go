package reach

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	// discoverEvery is the least time between two rounds of discovery, discoverFor the most that one may take.
	discoverEvery, discoverFor = 5 * time.Second, 4 * time.Second
	// mostFound bounds the addresses of a round: anybody may advertise.
	mostFound = 16
	// reverseHead is how long the controller has for its call before the agent, which listens for it, dials as well:
	// where dialling is denied, each try may put a question before the user.
	reverseHead = 3 * time.Second
)

// Options say what a Dialer works with. ServerName and RootCAs are required.
type Options struct {
	// ServerName and RootCAs are what the far end's certificate is checked against.
	ServerName string
	RootCAs    *x509.CertPool
	// Discover looks for further addresses; what it finds are hints, and may be lies. It is called after the known
	// addresses failed, one call at a time, every 5 s at most. Nil means that nobody looks.
	Discover func(ctx context.Context) ([]netip.AddrPort, error)
	// Reverse is an address to listen on, host and port, for a controller that calls; empty means that none will.
	Reverse string
	// Remember is a file that keeps the last address that was right, for the next start; empty means that none does.
	Remember string
	// OnLink is told how things stand at each Report; nil means that nobody wants to know.
	OnLink func(plan.Link)
	Log    *slog.Logger // nil means silence

	// Clocks that tests steer; zero values choose the usual.
	head, between, proof time.Duration
}

// Dialer makes connections to one controller. Dial is for one caller at a time; the other methods are safe for
// concurrent use.
type Dialer struct {
	o      Options
	log    *slog.Logger
	secure *tls.Config
	calls  *answerer // nil without Reverse

	quit    context.CancelFunc
	life    func() context.Context // ends with Close
	running sync.WaitGroup         // rounds of discovery, and guards

	mu      sync.Mutex
	good    string        // the last address that was right; guarded by mu, as is the rest
	found   []string      // by the last round
	round   chan struct{} // closed at the end of the round that runs; nil while none does
	rounded time.Time     // when the last one began
	said    string        // why it found nothing
	lost    time.Time     // since when there is no connection
	current *linked       // nil while there is none
	denied  bool          // by the last dial
}

// New makes a Dialer, which listens at once where it has to. The error has CodeConflict when it cannot.
func New(o Options) (*Dialer, error) {
	if o.ServerName == "" || o.RootCAs == nil {
		return nil, errors.New("reach the controller: the name and the authority of its certificate are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnLink == nil {
		o.OnLink = func(plan.Link) {}
	}
	if o.head <= 0 {
		o.head = reverseHead
	}
	if o.between <= 0 {
		o.between = discoverEvery
	}
	if o.proof <= 0 {
		o.proof = proofWait
	}
	life, quit := context.WithCancel(context.Background())
	d := &Dialer{
		o: o, log: o.Log, quit: quit, life: func() context.Context { return life },
		secure: &tls.Config{RootCAs: o.RootCAs, ServerName: o.ServerName, MinVersion: tls.VersionTLS13},
		lost:   time.Now(), good: recall(o.Remember),
	}
	if o.Reverse == "" {
		return d, nil
	}
	var err error
	if d.calls, err = answer(o.Reverse, d.secure, o.proof, o.Log); err != nil {
		quit()
		return nil, err
	}
	return d, nil
}

// Close ends listening and looking, and waits for both. Connections that were given stay.
func (d *Dialer) Close() {
	d.mu.Lock()
	d.quit() // nothing begins after it
	d.mu.Unlock()
	if d.calls != nil {
		d.calls.close()
	}
	d.running.Wait()
}

// ReverseAddr is where the Dialer listens; empty where it does not.
func (d *Dialer) ReverseAddr() string {
	if d.calls == nil {
		return ""
	}
	return d.calls.listener.Addr().String()
}

// Dial returns a connection to the controller: over the first of all known addresses that proves to be it, or, with
// Reverse, the one that it opened itself. urls are "tls://host:port", any will do. It returns soon after ctx ends. The
// error is a *cluster.Error: CodeUnauthorized where only others answer, else CodeUnreachable.
func (d *Dialer) Dial(ctx context.Context, urls []string) (net.Conn, error) {
	direct := func(ctx context.Context) (*proven, error) { return d.direct(ctx, urls) }
	if d.calls == nil {
		conn, err := direct(ctx)
		if err != nil {
			return nil, err
		}
		return d.hand(conn), nil
	}
	conn, errs := first(ctx, 0, []way{d.calls.take, d.afterHead(direct)})
	if conn == nil {
		return nil, notCalled(d.ReverseAddr(), errs[1])
	}
	return d.hand(conn), nil
}

// errHead is the error of a dial that did not begin.
var errHead = errors.New("the controller has the first go")

// afterHead holds a way back until the controller had its time to call.
func (d *Dialer) afterHead(open way) way {
	return func(ctx context.Context) (*proven, error) {
		d.mu.Lock()
		wait := time.Until(d.lost.Add(d.o.head))
		d.mu.Unlock()
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return nil, errHead
		case <-timer.C:
			return open(ctx)
		}
	}
}

func notCalled(addr string, dialled error) *cluster.Error {
	if errors.Is(dialled, errHead) {
		return cluster.Errorf(cluster.CodeUnreachable, "waiting for the controller to call at %s", addr)
	}
	e := *cluster.AsError(dialled)
	e.Message = "waiting for the controller to call at " + addr + ", since " + e.Message
	return &e
}

// linked is the connection in use.
type linked struct {
	*proven
	d      *Dialer
	closed chan struct{}
	once   sync.Once
}

// Close also lets the next one in.
func (l *linked) Close() error {
	l.once.Do(func() { close(l.closed) })
	l.d.mu.Lock()
	if l.d.current == l {
		l.d.current, l.d.lost = nil, time.Now()
	}
	l.d.mu.Unlock()
	if l.d.calls != nil {
		l.d.calls.open(true)
	}
	return l.proven.Close()
}

// hand gives a connection to its user.
func (d *Dialer) hand(p *proven) net.Conn {
	l := &linked{proven: p, d: d, closed: make(chan struct{})}
	d.mu.Lock()
	d.current, d.denied = l, false
	if d.life().Err() == nil {
		d.running.Go(l.guard)
	}
	d.mu.Unlock()
	if d.calls != nil {
		d.calls.open(false)
	}
	return l
}

// direct dials what is known, and looks for more when that fails.
func (d *Dialer) direct(ctx context.Context, urls []string) (*proven, error) {
	tried := d.known(urls)
	conn, failed := d.race(ctx, tried)
	if conn == nil {
		more := slices.DeleteFunc(d.look(ctx), func(addr string) bool { return slices.Contains(tried, addr) })
		if len(more) > 0 {
			var again []*failure
			conn, again = d.race(ctx, more)
			failed = append(failed, again...)
		}
	}
	if conn == nil {
		err, denied := verdict(failed)
		d.mu.Lock()
		d.denied = denied
		d.mu.Unlock()
		return nil, err
	}
	d.remember(conn.addr)
	return conn, nil
}

// known lists the addresses to try: the last right one, those that were given, those that were found.
func (d *Dialer) known(urls []string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	add := func(addr string) {
		if addr != "" && !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	add(d.good)
	for _, u := range urls {
		add(hostPort(u))
	}
	for _, addr := range d.found {
		add(addr)
	}
	return out
}

// look has a round of discovery made, unless the last one was just now, and returns what is found by the end of ctx. The
// round itself goes on: what it finds later is for the next dial.
func (d *Dialer) look(ctx context.Context) []string {
	if d.o.Discover == nil {
		return nil
	}
	d.mu.Lock()
	if d.round == nil && time.Since(d.rounded) >= d.o.between && d.life().Err() == nil {
		d.round, d.rounded = make(chan struct{}), time.Now()
		d.running.Go(d.discover)
	}
	round := d.round
	d.mu.Unlock()
	if round == nil {
		return nil // what the last one found was tried
	}
	select {
	case <-round:
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.found)
}

func (d *Dialer) discover() {
	ctx, cancel := context.WithTimeout(d.life(), discoverFor)
	defer cancel()
	addrs, err := d.o.Discover(ctx)
	var found []string
	for _, a := range addrs[:min(len(addrs), mostFound)] {
		if a.IsValid() && a.Port() != 0 {
			found = append(found, a.String())
		}
	}
	d.log.Debug("looked for the controller", "found", len(found))
	said := ""
	if err != nil && ctx.Err() == nil {
		said = err.Error()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if said != "" && said != d.said { // one that looks for days says it once
		d.log.Warn("cannot look for the controller", "err", said)
	}
	d.said = said
	if len(found) > 0 {
		d.found = found
	}
	close(d.round)
	d.round = nil
}
