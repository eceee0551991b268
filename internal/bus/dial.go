package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// dialTimeout bounds one try with one server, from the first packet to the welcome.
const dialTimeout = 2 * time.Second

var errNotConnected = errors.New("no connection")

// Options say how to connect. One of URLs and InProcess is required.
type Options struct {
	// URLs are of servers of one bus; any will do.
	URLs []string
	// InProcess connects to a server in this process, without a network.
	InProcess *Server
	// Credentials say who this is; CredentialsFile has them in a file, which is read again at each connect. A server
	// that asks for none needs neither.
	Credentials     Credentials
	CredentialsFile string
	// Renew, where it is set, gives the credentials anew at each connect, for users that are signed on the spot: what
	// signed them may have been replaced meanwhile.
	Renew func() (Credentials, error)
	// RootCAs and ServerName are what the server's certificate is checked against; where either is set, a server
	// without TLS is refused. Zero values mean the system's authorities, and the host's name in the URL.
	RootCAs    *x509.CertPool
	ServerName string
	// HandshakeFirst starts TLS with the first byte, as embedded servers want it and others usually do not.
	HandshakeFirst bool
	// Dialer, where it is set, makes the connections in place of all this: what it returns has TLS done and the server
	// proven, by its own means. It is called with URLs, again and again while there is no connection, one call at a time,
	// and has to return soon after ctx ends, which is after 2 s at most. A *cluster.Error of it is told as it is.
	Dialer func(ctx context.Context, urls []string) (net.Conn, error)
	Name   string // of this connection, for people
	// InboxPrefix is below what this user may subscribe to: replies come there.
	InboxPrefix string
	Log         *slog.Logger // nil means silence
	// OnReconnect is called after each connect, the first one included: say hello there. OnState is told of each
	// change, and why there is no connection. Calls of both come one after another from a goroutine of the
	// connection, perhaps before Dial has returned; Close waits for them, and so must not be called there.
	OnReconnect func()
	OnState     func(connected bool, err error)
	// WaitForConnect has Dial fail unless the first try succeeds. Without it Dial returns after the first try, and the
	// connection is tried again until Close.
	WaitForConnect bool

	timing timing
}

// timing are the clocks of streams; zero values choose the usual.
type timing struct {
	pulse   time.Duration // how often the others are looked at; also the latest that an acknowledgement goes
	alive   time.Duration // of the sender, while it sends nothing
	reader  time.Duration // the reader's signs of life
	silence time.Duration // without a sign of the reader, the sender stops
	absent  time.Duration // the same where the server says that nobody reads
	linger  time.Duration // how long an ended stream can be resumed
	again   time.Duration // between two questions for the same message
}

func (t *timing) fill() {
	for _, f := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&t.pulse, 100 * time.Millisecond},
		{&t.alive, time.Second},
		{&t.reader, 2 * time.Second},
		{&t.silence, 10 * time.Second},
		{&t.absent, 3 * time.Second},
		{&t.linger, 15 * time.Second},
		{&t.again, time.Second},
	} {
		if *f.value <= 0 {
			*f.value = f.usual
		}
	}
}

// Dial connects. With WaitForConnect, the error has CodeUnreachable when no server is there, and CodeUnauthorized when
// it does not believe these credentials or cannot prove to be of this cluster.
func Dial(ctx context.Context, o Options) (*Conn, error) {
	if len(o.URLs) == 0 && o.InProcess == nil && o.Dialer == nil {
		return nil, cluster.Errorf(cluster.CodeInvalid, "no address of a bus to connect to")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.InboxPrefix == "" {
		o.InboxPrefix = "_INBOX_" + nuid.Next()
	}
	if o.OnReconnect == nil {
		o.OnReconnect = func() {}
	}
	if o.OnState == nil {
		o.OnState = func(bool, error) {}
	}
	o.timing.fill()
	c := newConn(o)
	if o.CredentialsFile != "" {
		if _, err := c.keys.token(); err != nil && o.WaitForConnect {
			return nil, err
		}
	}
	aborted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(aborted)
		c.dialer.abort()
	})
	nc, err := nats.Connect(c.servers(), c.natsOptions()...)
	interrupted := !stop()
	if interrupted {
		<-aborted
	}
	if err != nil {
		return nil, c.firstError(ctx, err)
	}
	c.nats = nc
	if interrupted && o.WaitForConnect {
		nc.Close()
		<-c.gone
		return nil, c.firstError(ctx, context.Cause(ctx))
	}
	c.dialer.allow()
	if o.WaitForConnect {
		<-c.first // nats calls back right after
	}
	c.running.Go(c.pulse)
	c.running.Go(c.teller)
	return c, nil
}

// servers are the URLs that nats.go goes through. Where a Dialer knows all ways, nats.go knows one name that stands for
// them, so that it waits after each try as after a round.
func (c *Conn) servers() string {
	if c.o.Dialer != nil {
		return "nats://" + anyServer
	}
	return strings.Join(c.o.URLs, ",")
}

func (c *Conn) natsOptions() []nats.Option {
	o := c.o
	out := []nats.Option{
		nats.Name(o.Name), nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond), nats.RetryOnFailedConnect(!o.WaitForConnect),
		nats.Timeout(dialTimeout), nats.PingInterval(2 * time.Second), nats.MaxPingsOutstanding(2),
		// Without these two, a link that is half open is not noticed while something is sent.
		nats.FlusherTimeout(3 * time.Second), nats.ReconnectOnFlusherError(),
		// What could not be sent must not come late: streams send again what is still wanted.
		nats.ReconnectBufSize(-1),
		nats.IgnoreAuthErrorAbort(), nats.IgnoreDiscoveredServers(), nats.SkipHostLookup(),
		nats.ConnectHandler(c.onConnect), nats.ReconnectHandler(c.onConnect), nats.DisconnectErrHandler(c.onDisconnect),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { c.trouble(err) }),
		nats.ErrorHandler(c.onError), nats.ClosedHandler(func(*nats.Conn) { close(c.gone) }),
	}
	switch {
	case o.InProcess != nil:
		out = append(out, nats.InProcessServer(o.InProcess.nats))
	case o.Dialer != nil:
		out = append(out, nats.SetCustomDialer(provenDialer{c.dialer}))
	default:
		out = append(out, nats.SetCustomDialer(c.dialer))
	}
	if !c.keys.isEmpty() {
		out = append(out, nats.UserJWT(c.keys.token, c.keys.sign))
	}
	if o.InProcess == nil && o.Dialer == nil && (o.RootCAs != nil || o.ServerName != "" || o.HandshakeFirst) {
		out = append(out, nats.Secure(&tls.Config{RootCAs: o.RootCAs, ServerName: o.ServerName, MinVersion: tls.VersionTLS12}))
		if o.HandshakeFirst {
			out = append(out, nats.TLSHandshakeFirst())
		}
	}
	return out
}

// anyServer stands for all servers of a Dialer.
const anyServer = "controller:4222"

// provenDialer gives nats.go connections on which TLS is done, whatever the server says that it wants.
type provenDialer struct{ *dialer }

// SkipTLSHandshake is what nats.go looks for.
func (provenDialer) SkipTLSHandshake() bool { return true }

// dialer reaches servers; it can be interrupted, and knows what went wrong last.
type dialer struct {
	reach func(ctx context.Context, network, addr string) (net.Conn, error)

	mu      sync.Mutex
	aborted bool               // guarded by mu, as is the rest
	cancel  context.CancelFunc // of the dial that runs
	conn    net.Conn           // the newest
	addr    string
	err     error
}

// Dial is what nats.go calls.
func (d *dialer) Dial(network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	d.mu.Lock()
	d.addr, d.err, d.cancel = addr, nil, cancel
	aborted := d.aborted
	d.mu.Unlock()
	if aborted {
		return nil, errNotConnected
	}
	conn, err := d.reach(ctx, network, addr)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cancel, d.err = nil, err
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	if d.conn = conn; addr == anyServer {
		d.addr = conn.RemoteAddr().String()
	}
	if d.aborted {
		_ = conn.Close() // nothing was sent
	}
	return conn, nil
}

// abort ends a dial or a handshake that runs, and has others fail.
func (d *dialer) abort() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.aborted = true
	if d.cancel != nil {
		d.cancel()
	}
	if d.conn != nil {
		_ = d.conn.Close() // its user sees the error
	}
}

// allow takes abort back: the end of the context of Dial is not that of the connection.
func (d *dialer) allow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.aborted = false
}

func (d *dialer) last() (addr string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.addr, d.err
}

// firstError is why Dial failed.
func (c *Conn) firstError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		var known *cluster.Error
		switch {
		case errors.As(cause, &known):
			return known
		case errors.Is(cause, context.Canceled):
			return cluster.Errorf(cluster.CodeCancelled, "connecting to the bus was given up")
		}
		return cluster.Errorf(cluster.CodeUnreachable, "the bus at %s did not answer in time", c.where())
	}
	return c.classify(err)
}

// where is the server that was tried last, or those that there are, without secrets.
func (c *Conn) where() string {
	if addr, _ := c.dialer.last(); addr != "" && addr != anyServer {
		return addr
	}
	if c.o.InProcess != nil {
		return "this process"
	}
	var hosts []string
	for _, u := range c.o.URLs {
		if parsed, err := url.Parse(u); err == nil && parsed.Host != "" {
			hosts = append(hosts, parsed.Host)
		}
	}
	return strings.Join(hosts, ", ")
}

// classify says in one line why there is no connection.
func (c *Conn) classify(err error) *cluster.Error {
	if errors.Is(err, nats.ErrNoServers) {
		if _, dialed := c.dialer.last(); dialed != nil {
			err = dialed
		}
	}
	if known, ok := errors.AsType[*cluster.Error](err); ok {
		return known
	}
	at := c.where()
	var unknown x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var network net.Error
	unreachable := func(why any) *cluster.Error {
		return cluster.Errorf(cluster.CodeUnreachable, "cannot reach the bus at %s: %v", at, why)
	}
	switch {
	case isAuth(err):
		return cluster.Errorf(cluster.CodeUnauthorized, "the bus at %s refuses these credentials", at).
			WithHint("they are of another cluster, or were revoked")
	case errors.As(err, &unknown):
		return cluster.Errorf(cluster.CodeUnauthorized, "the bus at %s is not of this cluster: somebody else signed its certificate", at).
			WithHint("check the address, and that the certificate authority is that of the cluster")
	case errors.As(err, &wrongName):
		return cluster.Errorf(cluster.CodeUnauthorized, "the bus at %s is not of this cluster: its certificate has another name", at).
			WithHint("check the address and the server's name")
	case errors.As(err, &certificate):
		return cluster.Errorf(cluster.CodeUnauthorized, "cannot believe the certificate of the bus at %s: %v", at, rootOf(certificate.Err))
	case errors.As(err, &record):
		return unreachable("it does not start with TLS").WithHint("it may be another service, or a server set up otherwise")
	case errors.Is(err, nats.ErrSecureConnWanted):
		return cluster.Errorf(cluster.CodeUnauthorized, "the bus at %s offers no TLS", at)
	case errors.As(err, &network) && network.Timeout():
		return unreachable("no answer").WithHint("a firewall may be between, or the server may want TLS from the first byte")
	case err == nil:
		return unreachable(errNotConnected)
	}
	return unreachable(rootOf(err)).WithHint("is the controller running?")
}

func isAuth(err error) bool {
	for _, known := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
