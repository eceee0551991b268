package bus

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	// inbound is how many words of readers may wait for a mux.
	inbound = 8192
	// maxLingering bounds the ended streams of one mux that wait for their readers to have read all.
	maxLingering = 4096
)

// StreamHandler serves one stream: it sends with w, and what it returns ends the stream. ctx ends when the reader
// cancels or went away, and with Close; its cause is the reason.
type StreamHandler func(ctx context.Context, decode func(any) error, w *StreamWriter) error

// ServeStreams serves streams that are opened on subject and controlled below control. limit is how many there may be
// at once; more are refused with CodeBusy. When h panics, the reader gets CodeInternal, and the log the stack.
func (c *Conn) ServeStreams(subject, control string, limit int, h StreamHandler) (*Subscription, error) {
	m, err := c.mux(control)
	if err != nil {
		return nil, err
	}
	v := &service{subject: subject, limit: limit, handle: h}
	if err := m.add(v); err != nil {
		m.release()
		return nil, err
	}
	c.settle()
	s, err := c.track(func() {
		m.remove(v)
		m.release()
	})
	if err != nil {
		return nil, err
	}
	s.finish = func(ctx context.Context) { m.finish(ctx, v) }
	return s, nil
}

// service is one ServeStreams.
type service struct {
	subject string
	limit   int
	handle  StreamHandler
	sub     *nats.Subscription
	calls   sync.WaitGroup // of handle
	running int            // guarded by mux.mu
	closed  bool           // guarded by mux.mu
}

// mux takes what readers say to all services with the same control subject. One goroutine takes it, in the order in
// which it came: a cancel must not overtake what it cancels.
type mux struct {
	c       *Conn
	control string
	sub     *nats.Subscription
	in      chan *nats.Msg // buffered: nats drops what does not fit
	quit    chan struct{}
	run     sync.WaitGroup
	users   int // guarded by Conn.mu

	mu       sync.Mutex
	services map[string]*service      // guarded by mu, by subject
	writers  map[string]*StreamWriter // guarded by mu, by id
	owner    map[string]*service      // guarded by mu, of writers
	late     int                      // guarded by mu: writers that linger
}

// mux returns that of a control subject, for one more user.
func (c *Conn) mux(control string) (*mux, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil, errClosed()
	}
	if m := c.muxes[control]; m != nil {
		m.users++
		return m, nil
	}
	m := &mux{
		c: c, control: control, in: make(chan *nats.Msg, inbound), quit: make(chan struct{}), users: 1,
		services: make(map[string]*service), writers: make(map[string]*StreamWriter), owner: make(map[string]*service),
	}
	var err error
	if m.sub, err = c.nats.ChanSubscribe(control+".*", m.in); err != nil {
		return nil, cluster.Errorf(cluster.CodeUnreachable, "cannot listen to readers of streams: %v", err)
	}
	c.muxes[control] = m
	m.run.Go(m.loop)
	return m, nil
}

// release is for mux: the last one ends it.
func (m *mux) release() {
	m.c.mu.Lock()
	m.users--
	isLast := m.users == 0
	if isLast {
		delete(m.c.muxes, m.control)
	}
	m.c.mu.Unlock()
	if !isLast {
		return
	}
	_ = m.sub.Unsubscribe() // that fails only where there is nothing left to end
	close(m.quit)
	m.run.Wait()
}

func (m *mux) add(v *service) error {
	m.mu.Lock()
	taken := m.services[v.subject] != nil
	if !taken {
		m.services[v.subject] = v
	}
	m.mu.Unlock()
	if taken {
		return cluster.Errorf(cluster.CodeConflict, "streams on %s are served already", v.subject)
	}
	var err error
	if v.sub, err = m.c.nats.ChanSubscribe(v.subject, m.in); err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.services, v.subject)
		return m.c.sendError(err, 0)
	}
	return nil
}

// remove ends a service: its handlers are cancelled and waited for, and its streams can not be resumed.
func (m *mux) remove(v *service) {
	_ = v.sub.Unsubscribe() // that fails only where there is nothing left to end
	m.mu.Lock()
	v.closed = true
	delete(m.services, v.subject)
	var writers []*StreamWriter
	for id, w := range m.writers {
		if m.owner[id] == v {
			writers = append(writers, w)
		}
	}
	m.mu.Unlock()
	for _, w := range writers {
		w.stopWith(errLeaving())
	}
	v.calls.Wait()
	for _, w := range writers {
		m.drop(w)
	}
}

const (
	// finishLook is how often a service that finishes looks whether it is done.
	finishLook = 5 * time.Millisecond
	// lastRead is how long readers get to say that they have read all. What one has not read by then lies with it.
	lastRead = 2 * time.Second
)

// finish lets the streams of a service come to their ends.
func (m *mux) finish(ctx context.Context, v *service) {
	tick := time.NewTicker(finishLook)
	defer tick.Stop()
	var ended time.Time // all handlers
	for {
		running, unread := m.shut(v)
		if running == 0 && ended.IsZero() {
			ended = time.Now()
		}
		if running == 0 && (unread == 0 || time.Since(ended) >= lastRead) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// shut has a service take nothing new, and counts its handlers and the streams that are not read to their ends.
func (m *mux) shut(v *service) (running, unread int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v.closed = true
	for _, owner := range m.owner {
		if owner == v {
			unread++
		}
	}
	return v.running, unread
}

func (m *mux) loop() {
	for {
		select {
		case <-m.quit:
			return
		case msg := <-m.in:
			if msg.Sub == m.sub {
				m.word(msg)
			} else {
				m.open(msg)
			}
		}
	}
}

// word takes a word of a reader, or of the server about one.
func (m *mux) word(msg *nats.Msg) {
	id := msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]
	m.mu.Lock()
	w := m.writers[id]
	m.mu.Unlock()
	if isNobody(msg) {
		if w != nil {
			w.nobodyReads(time.Now())
		}
		return
	}
	f, err := decode(msg.Data)
	if err != nil {
		m.c.o.Log.Warn("bus could not read word of a stream's reader", "subject", msg.Subject, "err", err)
		return
	}
	if w == nil {
		// The sender started again, or gave the stream up. A cancel was for that.
		if f.kind != kindCancel && mayReply(msg.Subject, msg.Reply) {
			m.c.sayLost(msg.Reply, cluster.Errorf(cluster.CodeNodeLost, "the other side does not know the stream any more"))
		}
		return
	}
	w.hear(f)
	if w.isDone() {
		m.drop(w)
	}
}

// sayLost tells a reader that what it asks for is gone.
func (c *Conn) sayLost(reply string, e *cluster.Error) {
	data, err := encode(kindLost, 0, "", e)
	if err == nil {
		err = c.publish(reply, data)
	}
	if err != nil {
		c.o.Log.Warn("bus could not tell that a stream is lost", "reply", reply, "err", err)
	}
}

// open begins a stream, or refuses.
func (m *mux) open(msg *nats.Msg) {
	if !mayReply(msg.Subject, msg.Reply) {
		m.c.o.Log.Warn("bus stream wants to be sent where it may not be", "subject", msg.Subject, "reply", msg.Reply)
		return
	}
	f, err := decode(msg.Data)
	if err == nil && (f.kind != kindOpen || f.id == "") {
		err = cluster.Errorf(cluster.CodeInvalid, "this subject opens streams, and takes no %q", f.kind)
	}
	if err != nil {
		m.c.refuse(msg.Reply, err)
		return
	}
	window := defaultWindow
	if f.n > 0 {
		window = int(min(f.n, maxWindow))
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	w := newWriter(m.c, f.id, msg.Reply, window, cancel)
	v, err := m.admit(msg.Sub.Subject, w)
	if err != nil || v == nil {
		cancel(err)
		if err != nil {
			m.c.refuse(msg.Reply, err)
		}
		return
	}
	if err := m.c.publish(w.reply, encodeHead(kindStart, 0, "", 0)); err != nil {
		m.c.o.Log.Debug("bus could not accept stream", "subject", msg.Subject, "err", err) // a sign of life will
	}
	poke(m.c.stir)
	go func() {
		defer v.calls.Done()
		defer cancel(nil)
		m.leave(v, w, m.c.guarded(msg.Subject, func() error { return v.handle(ctx, f.into, w) }))
	}()
}

// admit gives a writer a place. It is nil without an error when the stream was opened before.
func (m *mux) admit(subject string, w *StreamWriter) (*service, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.services[subject]
	if v == nil || v.closed {
		return nil, errLeaving()
	}
	if other := m.writers[w.id]; other != nil {
		if other.reply == w.reply {
			return nil, nil //nolint:nilnil // the reader has its stream
		}
		return nil, cluster.Errorf(cluster.CodeConflict, "the id of the stream is in use")
	}
	if v.running >= v.limit {
		return nil, cluster.Errorf(cluster.CodeBusy, "%d streams at once are the most here", v.limit)
	}
	v.running++
	v.calls.Add(1)
	m.writers[w.id], m.owner[w.id] = w, v
	return v, nil
}

// leave ends a handler's part. The stream stays while its reader has not read all.
func (m *mux) leave(v *service, w *StreamWriter, err error) {
	lingers := w.finish(err)
	m.mu.Lock()
	v.running--
	m.mu.Unlock()
	if lingers && !w.isDone() && m.linger(w) {
		return
	}
	m.drop(w)
}

func (m *mux) linger(w *StreamWriter) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.late >= maxLingering || m.writers[w.id] != w {
		return false
	}
	m.late++
	w.lingers = true
	return true
}

// drop ends what was left of a stream whose handler is done; those of others go with their handler.
func (m *mux) drop(w *StreamWriter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.writers[w.id] != w {
		return
	}
	delete(m.writers, w.id)
	delete(m.owner, w.id)
	if w.lingers {
		m.late--
	}
}

// pulse looks after all streams. It says whether there are any.
func (m *mux) pulse(now time.Time, reconnected bool) bool {
	m.mu.Lock()
	writers := make([]*StreamWriter, 0, len(m.writers))
	for _, w := range m.writers {
		writers = append(writers, w)
	}
	m.mu.Unlock()
	for _, w := range writers {
		if reconnected {
			w.sign(m.control) // tells the reader what it should have
		}
		w.pulse(now, m.control)
		if w.isDone() {
			m.drop(w)
		}
	}
	return len(writers) > 0
}
