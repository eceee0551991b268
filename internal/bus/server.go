package bus

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	defaultMaxPayload = 8 << 20 // bytes
	readyWait         = 10 * time.Second
	writeWait         = 5 * time.Second // for a client to read what is written
	// maxPending is what the server holds for one connection that does not read, in bytes; then it cuts the connection.
	maxPending = 32 << 20
	// maxSubs is what one connection may subscribe to: a controller does for each request that it asks of a node.
	maxSubs = 32768
	// insideAddr is where the NATS server takes what the front lets through.
	insideAddr = "127.0.0.1"
	// spareConns are those of this process, beside what the front lets through.
	spareConns = 64
)

// ServerOptions say how to run a Server. Addr, OperatorJWT, Accounts and SystemAccount are required.
type ServerOptions struct {
	Name string
	// Addr is where to listen, host and port; port 0 takes a free one.
	Addr string
	// StoreDir is where what outlives the process is kept; empty means that nothing is.
	StoreDir string
	// TLS is what clients have to speak from their first byte; nil means none.
	TLS         *tls.Config
	OperatorJWT string
	// Accounts are the claims of all accounts by public key, SystemAccount's among them.
	Accounts      map[string]string
	SystemAccount string
	// SystemCredentials are of a user of the system account who may connect in process. OnDisconnect needs them.
	SystemCredentials Credentials
	// MaxPayload is the most bytes that one message may have; zero means 8 MiB.
	MaxPayload int
	Log        *slog.Logger // nil means silence

	crowd crowd // tests have less room
}

// Server is an embedded NATS server. Its methods are safe for concurrent use.
type Server struct {
	nats     *server.Server
	front    *front
	resolver *server.MemAccResolver
	system   *nats.Conn // nil without SystemCredentials
	secure   bool
	log      *slog.Logger
	ended    chan struct{} // closed when the system connection is gone

	mu   sync.Mutex
	tell []func(string, bool) // guarded by mu
}

// StartServer starts one and returns when it takes connections. The error has CodeConflict when the address is in use.
func StartServer(ctx context.Context, o ServerOptions) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.crowd == (crowd{}) {
		o.crowd = usualCrowd()
	}
	resolver := &server.MemAccResolver{}
	options, err := serverOptions(o, resolver)
	if err != nil {
		return nil, err
	}
	front, err := openFront(ctx, o.Addr, o.crowd, o.Log)
	if err != nil {
		return nil, err
	}
	srv, err := server.NewServer(options)
	if err != nil {
		front.close()
		return nil, cluster.Errorf(cluster.CodeInvalid, "set up the bus: %v", err)
	}
	log := &serverLog{log: o.Log}
	srv.SetLoggerV2(log, false, false, false)
	s := &Server{nats: srv, front: front, resolver: resolver, secure: o.TLS != nil, log: o.Log, ended: make(chan struct{})}
	srv.Start()
	if err := s.ready(ctx, log); err != nil {
		s.stop()
		return nil, err
	}
	if o.SystemCredentials.JWT == "" {
		close(s.ended)
	} else if err := s.listen(o.SystemCredentials); err != nil {
		s.stop()
		return nil, err
	}
	front.serve(srv.Addr().String())
	return s, nil
}

func serverOptions(o ServerOptions, resolver *server.MemAccResolver) (*server.Options, error) {
	_, portText, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return nil, cluster.Errorf(cluster.CodeInvalid, "the bus cannot listen on %q: %v", o.Addr, err)
	}
	if _, err := strconv.ParseUint(portText, 10, 16); err != nil {
		return nil, cluster.Errorf(cluster.CodeInvalid, "the bus cannot listen on %q: the port is no number up to 65535", o.Addr)
	}
	if o.MaxPayload > maxPending {
		return nil, cluster.Errorf(cluster.CodeInvalid, "the bus takes messages of at most %d bytes, not %d", maxPending, o.MaxPayload)
	}
	operator, err := jwt.DecodeOperatorClaims(o.OperatorJWT)
	if err != nil {
		return nil, cluster.Errorf(cluster.CodeInvalid, "read the cluster's operator: %v", err)
	}
	for pub, token := range o.Accounts {
		if err := resolver.Store(pub, token); err != nil {
			return nil, fmt.Errorf("store account %s: %w", pub, err)
		}
	}
	out := &server.Options{
		ServerName: o.Name, Host: insideAddr, Port: server.RANDOM_PORT, ProxyProtocol: true, NoSigs: true, NoLog: true, DisableJetStreamBanner: true,
		MaxPayload: int32(o.MaxPayload), MaxPending: maxPending, WriteDeadline: writeWait,
		MaxControlLine: 4096, MaxConn: o.crowd.local + o.crowd.remote + spareConns, MaxSubs: maxSubs, PingInterval: 2 * time.Second, MaxPingsOut: 2, AuthTimeout: 3,
		TrustedOperators: []*jwt.OperatorClaims{operator}, AccountResolver: resolver, SystemAccount: o.SystemAccount,
	}
	if o.MaxPayload <= 0 {
		out.MaxPayload = defaultMaxPayload
	}
	if o.TLS != nil {
		out.TLSConfig, out.TLSTimeout, out.TLSHandshakeFirst = o.TLS.Clone(), 3, true
	}
	if o.StoreDir != "" {
		out.JetStream, out.StoreDir, out.SyncAlways = true, o.StoreDir, true
		out.JetStreamMaxStore, out.JetStreamMaxMemory = 2<<30, 64<<20
	}
	return out, nil
}

func addressInUse(addr string) error {
	return cluster.Errorf(cluster.CodeConflict, "the bus cannot listen on %s: the address is in use", addr).
		WithHint("another controller may be running there; stop it or choose another address")
}

// ready waits until the server takes connections.
func (s *Server) ready(ctx context.Context, log *serverLog) error {
	wait := readyWait
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline))
	}
	switch fatal := log.fatal.Load(); {
	case fatal != nil:
		return cluster.Errorf(cluster.CodeConflict, "start the bus: %s", *fatal)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !s.nats.ReadyForConnections(wait):
		return cluster.Errorf(cluster.CodeTimeout, "the bus was not ready within %s", wait)
	}
	return nil
}

// listen connects as the system's user and hears of closed connections.
func (s *Server) listen(c Credentials) error {
	keys := &keyring{cred: c}
	nc, err := nats.Connect("", nats.InProcessServer(s.nats), nats.UserJWT(keys.token, keys.sign), nats.NoReconnect(),
		nats.Name("system"), nats.Timeout(readyWait), nats.ClosedHandler(func(*nats.Conn) { close(s.ended) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.log.Error("bus cannot hear of closed connections", "err", err)
		}))
	if err != nil {
		close(s.ended)
		return cluster.Errorf(cluster.CodeUnauthorized, "connect to the bus as its system: %v", err)
	}
	s.system = nc
	_, err = nc.Subscribe("$SYS.ACCOUNT.*.DISCONNECT", s.onDisconnect)
	if err == nil {
		err = nc.FlushTimeout(readyWait)
	}
	if err != nil {
		return cluster.Errorf(cluster.CodeInternal, "hear of closed connections: %v", err)
	}
	return nil
}

func (s *Server) onDisconnect(m *nats.Msg) {
	var event struct {
		Client struct {
			User string `json:"user"`
		} `json:"client"`
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal(m.Data, &event); err != nil {
		s.log.Warn("could not read notice of a closed connection", "err", err)
		return
	}
	if event.Client.User == "" {
		return // it never said who it was
	}
	s.mu.Lock()
	tell := append([]func(string, bool){}, s.tell...)
	s.mu.Unlock()
	for _, f := range tell {
		f(event.Client.User, event.Reason == server.Revocation.String())
	}
}

// OnDisconnect calls f for each connection that closes from now on, with the public key of its user, and whether it was
// closed because that key was revoked. Calls come one after another; f must return soon. A user may have more connections that are still open. Without SystemCredentials,
// f is never called.
func (s *Server) OnDisconnect(f func(userPublicKey string, isRevoked bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell = append(s.tell, f)
}

// Addr is where it listens.
func (s *Server) Addr() string { return s.front.listener.Addr().String() }

// URL is how clients on this machine reach it.
func (s *Server) URL() string {
	scheme := "nats://"
	if s.secure {
		scheme = "tls://"
	}
	host, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + net.JoinHostPort(host, port)
}

// UpdateAccount replaces an account's claims. Connections of users that these revoke are closed.
func (s *Server) UpdateAccount(pub, token string) error {
	claims, err := jwt.DecodeAccountClaims(token)
	if err != nil {
		return cluster.Errorf(cluster.CodeInvalid, "read account: %v", err)
	}
	if claims.Subject != pub {
		return cluster.Errorf(cluster.CodeInvalid, "the claims are of account %s, not %s", claims.Subject, pub)
	}
	if err := s.resolver.Store(pub, token); err != nil {
		return fmt.Errorf("store account %s: %w", pub, err)
	}
	account, err := s.nats.LookupAccount(pub)
	if err != nil {
		return fmt.Errorf("find account %s: %w", pub, err)
	}
	s.nats.UpdateAccountClaims(account, claims)
	return nil
}

// Shutdown ends it and returns when nothing of it is left, or when ctx ends; it then goes on ending. Connections get
// what was sent to them and are closed. It may be called again.
func (s *Server) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.stop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("shut down the bus: %w", context.Cause(ctx))
	}
}

func (s *Server) stop() {
	s.front.shut()
	if s.system != nil {
		s.system.Close()
		<-s.ended
	}
	s.nats.Shutdown()
	s.nats.WaitForShutdown()
	s.front.close()
}
