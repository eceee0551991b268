package bus

import (
	"context"
	"errors"
	"net"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// maxOwed bounds the cancels that wait for a connection. What is above is noticed by the sender, later.
const maxOwed = 4096

// Conn is a connection to the bus that comes back by itself. Its methods are safe for concurrent use.
type Conn struct {
	o      Options
	keys   *keyring
	dialer *dialer
	nats   *nats.Conn    // set by Dial
	gone   chan struct{} // closed when nats calls nobody any more

	up      atomic.Bool    // nats's own answers wait while it dials, this one and the next do not
	limit   atomic.Int64   // bytes of a message; zero while never connected
	first   chan struct{}  // closed at the first connect
	running sync.WaitGroup // pulse and teller
	quit    chan struct{}  // ends them
	stir    chan struct{}  // wakes pulse. Buffered: one is enough
	news    chan struct{}  // wakes teller. Buffered: one is enough
	closed  chan struct{}  // closed when Close has done all

	mu       sync.Mutex
	closing  bool                       // guarded by mu, as is the rest
	connects int                        // how often
	reason   *cluster.Error             // why there is no connection
	calls    map[*call]struct{}         // that wait for a first answer
	readers  map[*Stream]struct{}       // open
	muxes    map[string]*mux            // by control subject
	subs     map[*Subscription]struct{} // open
	owed     []order                    // what could not be sent
}

// order is a message to the sender of a stream.
type order struct {
	subject, reply string
	data           []byte
}

func newConn(o Options) *Conn {
	reach := (&net.Dialer{}).DialContext
	if o.Dialer != nil {
		reach = func(ctx context.Context, _, _ string) (net.Conn, error) { return o.Dialer(ctx, o.URLs) }
	}
	return &Conn{
		o: o, keys: &keyring{file: o.CredentialsFile, renew: o.Renew, cred: o.Credentials}, dialer: &dialer{reach: reach},
		gone: make(chan struct{}), quit: make(chan struct{}), closed: make(chan struct{}),
		first: make(chan struct{}), stir: make(chan struct{}, 1), news: make(chan struct{}, 1),
		calls: make(map[*call]struct{}), readers: make(map[*Stream]struct{}), muxes: make(map[string]*mux),
		subs: make(map[*Subscription]struct{}),
	}
}

// Close ends the connection and all that runs over it, and returns when nothing of it is left: handlers are cancelled
// and waited for. It must not be called from one.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		<-c.closed
		return nil
	}
	c.closing = true
	var subs []*Subscription
	for s := range c.subs {
		subs = append(subs, s)
	}
	var readers []*Stream
	for s := range c.readers {
		readers = append(readers, s)
	}
	c.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range subs {
		wg.Go(func() { _ = s.Close() }) // it gives no error
	}
	wg.Wait()
	for _, s := range readers {
		_ = s.stopWith(errClosed()) // Next gives it
	}
	c.failCalls(errClosed(), func(*call) bool { return true })
	if !c.up.Load() {
		c.dialer.abort()
	}
	c.nats.Close()
	<-c.gone
	close(c.quit)
	c.running.Wait()
	close(c.closed)
	return nil
}

func errClosed() *cluster.Error {
	return cluster.Errorf(cluster.CodeUnreachable, "the connection to the bus was closed")
}

// Connected says whether there is a server now.
func (c *Conn) Connected() bool { return c.up.Load() }

// MaxPayload is the most bytes that a message may have; zero while never connected.
func (c *Conn) MaxPayload() int { return max(0, int(c.limit.Load())-overhead) }

// PublicKey is the user's; empty where there is none.
func (c *Conn) PublicKey() string { return c.keys.publicKey() }

// RTT measures the way to the server and back. It waits 10 s at most.
func (c *Conn) RTT(ctx context.Context) (time.Duration, error) {
	if !c.up.Load() {
		return 0, c.notConnected()
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	start := time.Now()
	if err := c.nats.FlushWithContext(ctx); err != nil {
		return 0, c.sendError(err, 0)
	}
	return time.Since(start), nil
}

// notConnected is the error of what needs a server.
func (c *Conn) notConnected() *cluster.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing:
		return errClosed()
	case c.reason != nil:
		return c.reason
	}
	return cluster.Errorf(cluster.CodeUnreachable, "not connected to the bus at %s", c.where())
}

// send hands a frame to the connection.
func (c *Conn) send(subject, reply string, data []byte) error {
	if !c.up.Load() {
		return c.notConnected()
	}
	if err := c.nats.PublishRequest(subject, reply, data); err != nil {
		return c.sendError(err, len(data))
	}
	return nil
}

// publish is send without somebody to answer.
func (c *Conn) publish(subject string, data []byte) error {
	if !c.up.Load() {
		return c.notConnected()
	}
	if err := c.nats.Publish(subject, data); err != nil {
		return c.sendError(err, len(data))
	}
	return nil
}

func (c *Conn) sendError(err error, size int) *cluster.Error {
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return tooLarge(size, int(c.limit.Load()))
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrReconnectBufExceeded):
		return c.notConnected()
	case errors.Is(err, nats.ErrBadSubject):
		return cluster.Errorf(cluster.CodeInvalid, "bad subject of a message on the bus")
	}
	return cluster.Errorf(cluster.CodeUnreachable, "cannot send on the bus: %v", err)
}

// fits says whether a frame may be sent.
func (c *Conn) fits(size int) *cluster.Error {
	if limit := int(c.limit.Load()); limit > 0 && size > limit {
		return tooLarge(size, limit)
	}
	return nil
}

func (c *Conn) onConnect(nc *nats.Conn) {
	c.limit.Store(nc.MaxPayload())
	c.up.Store(true)
	c.mu.Lock()
	c.connects++
	isFirst := c.connects == 1
	c.reason = nil
	c.mu.Unlock()
	if isFirst {
		close(c.first)
	}
	c.o.Log.Info("bus connected", "server", c.where())
	poke(c.stir)
	poke(c.news)
}

func (c *Conn) onDisconnect(_ *nats.Conn, err error) {
	c.up.Store(false)
	lost := cluster.Errorf(cluster.CodeUnreachable, "the connection to the bus was lost")
	c.mu.Lock()
	closing := c.closing
	if !closing {
		c.reason = lost
	}
	c.mu.Unlock()
	c.failCalls(lost, func(*call) bool { return true })
	if !closing {
		c.o.Log.Warn("bus connection lost", "server", c.where(), "err", err)
	}
	poke(c.stir)
	poke(c.news)
}

// trouble notes why there is still no connection.
func (c *Conn) trouble(err error) {
	if err == nil || c.up.Load() {
		return
	}
	e := c.classify(err)
	c.mu.Lock()
	known := c.closing || (c.reason != nil && c.reason.Message == e.Message)
	if !known {
		c.reason = e
	}
	c.mu.Unlock()
	if known {
		return
	}
	c.o.Log.Warn("bus cannot connect", "err", e)
	poke(c.news)
}

// denied finds the subject in what the server says about permissions.
var denied = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]+)"`)

func (c *Conn) onError(_ *nats.Conn, sub *nats.Subscription, err error) {
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
		c.o.Log.Warn("bus denies", "err", err)
		if m := denied.FindStringSubmatch(err.Error()); m != nil {
			e := cluster.Errorf(cluster.CodeUnauthorized, "these credentials do not allow %s to %s", m[1], m[2])
			c.failCalls(e, func(k *call) bool { return k.subject == m[2] || k.reply == m[2] })
		}
	case errors.Is(err, nats.ErrSlowConsumer) && sub != nil:
		c.o.Log.Warn("bus messages were dropped: too many wait", "subject", sub.Subject)
	case !c.up.Load():
		c.trouble(err)
	default:
		c.o.Log.Warn("bus error", "err", err)
	}
}

// call waits for a first answer.
type call struct {
	subject, reply string
	failed         chan *cluster.Error // buffered: the first error counts
}

func (c *Conn) begin(subject, reply string) (*call, error) {
	k := &call{subject: subject, reply: reply, failed: make(chan *cluster.Error, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil, errClosed()
	}
	c.calls[k] = struct{}{}
	return k, nil
}

func (c *Conn) end(k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, k)
}

func (c *Conn) failCalls(e *cluster.Error, which func(*call) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.calls {
		if which(k) {
			select {
			case k.failed <- e:
			default:
			}
		}
	}
}

// teller tells the owner about the state, so that a slow owner holds up nothing else.
func (c *Conn) teller() {
	told := 0
	var said *cluster.Error
	for {
		select {
		case <-c.quit:
			return
		case <-c.news:
		}
		c.mu.Lock()
		connects, reason := c.connects, c.reason
		c.mu.Unlock()
		switch {
		case reason != nil && reason != said:
			c.o.OnState(false, reason)
		case reason == nil && connects != told:
			told = connects
			c.o.OnState(true, nil)
			c.o.OnReconnect()
		}
		said = reason
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
