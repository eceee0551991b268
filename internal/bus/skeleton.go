package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"time"
)

var errSkeleton = errors.New("not here yet")

// Credentials are a user's token and the key that proves it.
type Credentials struct {
	JWT  string
	Seed []byte
}

// CredentialsFromFile reads credentials in the NATS format.
func CredentialsFromFile(path string) (Credentials, error) { return Credentials{}, errSkeleton }

// WriteFile writes credentials in the NATS format, readable by this user only.
func (c Credentials) WriteFile(path string) error { return errSkeleton }

// PublicKey is the user's.
func (c Credentials) PublicKey() (string, error) { return "", errSkeleton }

// ServerOptions say how to run a Server.
type ServerOptions struct {
	Name, Addr        string
	StoreDir          string
	TLS               *tls.Config
	OperatorJWT       string
	Accounts          map[string]string
	SystemAccount     string
	SystemCredentials Credentials
	MaxPayload        int
	Log               *slog.Logger
}

// Server is an embedded NATS server.
type Server struct{}

// StartServer starts one.
func StartServer(ctx context.Context, o ServerOptions) (*Server, error) { return nil, errSkeleton }

// Addr is where it listens.
func (s *Server) Addr() string { return "" }

// URL is how clients on this machine reach it.
func (s *Server) URL() string { return "" }

// Shutdown ends it.
func (s *Server) Shutdown(ctx context.Context) error { return errSkeleton }

// UpdateAccount replaces an account's claims.
func (s *Server) UpdateAccount(pub, jwt string) error { return errSkeleton }

// OnDisconnect calls f for each connection that closed.
func (s *Server) OnDisconnect(f func(userPublicKey string)) {}

// Options say how to connect.
type Options struct {
	URLs            []string
	InProcess       *Server
	Credentials     Credentials
	CredentialsFile string
	RootCAs         *x509.CertPool
	ServerName      string
	HandshakeFirst  bool
	Name            string
	InboxPrefix     string
	Log             *slog.Logger
	OnReconnect     func()
	OnState         func(connected bool, err error)
	WaitForConnect  bool
}

// Conn is a connection to the bus.
type Conn struct{}

// Dial connects.
func Dial(ctx context.Context, o Options) (*Conn, error) { return nil, errSkeleton }

// Close ends the connection and all that runs over it.
func (c *Conn) Close() error { return nil }

// Connected says whether there is a server now.
func (c *Conn) Connected() bool { return false }

// MaxPayload is the most bytes that a message may have; zero while never connected.
func (c *Conn) MaxPayload() int { return 0 }

// PublicKey is the user's; empty where there is none.
func (c *Conn) PublicKey() string { return "" }

// RTT measures the way to the server and back.
func (c *Conn) RTT(ctx context.Context) (time.Duration, error) { return 0, errSkeleton }

// Publish sends a message to whoever listens.
func (c *Conn) Publish(subject string, body any) error { return errSkeleton }

// Subscription is something that listens.
type Subscription struct{}

// Close ends it and waits for its handlers.
func (s *Subscription) Close() error { return nil }

// Subscribe listens to messages.
func (c *Conn) Subscribe(subject string, h func(subject string, decode func(any) error)) (*Subscription, error) {
	return nil, errSkeleton
}

// Request asks and waits for one reply; out may be nil.
func (c *Conn) Request(ctx context.Context, subject string, in, out any) error { return errSkeleton }

// Handle answers requests.
func (c *Conn) Handle(subject string, h func(ctx context.Context, subject string, decode func(any) error) (any, error)) (*Subscription, error) {
	return nil, errSkeleton
}

// StreamCall says what stream to open.
type StreamCall struct {
	Subject string
	Reply   string
	Control string
	ID      string
	Body    any
	Window  int
	Gap     time.Duration
}

// Stream is the reader's end.
type Stream struct{}

// OpenStream opens a stream.
func (c *Conn) OpenStream(ctx context.Context, call StreamCall) (*Stream, error) {
	return nil, errSkeleton
}

// Next decodes the next message into out.
func (s *Stream) Next(ctx context.Context, out any) error { return errSkeleton }

// Cancel tells the peer to stop.
func (s *Stream) Cancel() {}

// Close releases the stream, and cancels it if it has not ended.
func (s *Stream) Close() error { return nil }

// StreamHandler serves one stream.
type StreamHandler func(ctx context.Context, decode func(any) error, w *StreamWriter) error

// ServeStreams serves streams.
func (c *Conn) ServeStreams(subject, control string, limit int, h StreamHandler) (*Subscription, error) {
	return nil, errSkeleton
}

// StreamWriter is the sender's end.
type StreamWriter struct{}

// Send sends the next message.
func (w *StreamWriter) Send(body any) error { return errSkeleton }
