package enrol

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

const (
	// connectTimeout bounds the way to the controller, askTimeout the answer.
	connectTimeout, askTimeout = 5 * time.Second, 15 * time.Second
)

// errOtherCluster is that a server's chain has not the CA of the token.
var errOtherCluster = errors.New("its certificate is of another cluster")

// Node is who wants to join.
type Node struct {
	ID   cluster.NodeID
	Key  string // public
	Name string
	// Hardware is a hash of the machine's own number; empty where it says none.
	Hardware string
	// Sign signs with the key.
	Sign func(data []byte) ([]byte, error)
}

// Join has a node admitted by whoever made the token. All addresses of the token are tried at once, and the first that
// proves to be of the token's cluster is asked. The error has CodeUnreachable when there is none, and CodeUnauthorized
// when somebody else answers there or the token is no good.
func Join(ctx context.Context, t Token, n Node) (*Answer, error) {
	conn, err := connect(ctx, t)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // all was said
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // whoever waits sees the error
	defer stop()
	state := conn.ConnectionState()
	bind, err := binding(&state)
	if err != nil {
		return nil, err
	}
	mac := trust.TokenMAC(t.ID, t.Secret)
	q := request{ID: t.ID, Node: n.ID, Key: n.Key, Name: n.Name, Hardware: n.Hardware}
	q.Proof = proveRequest(mac, &q, t.Pin, bind)
	if q.Signature, err = n.Sign(q.Proof); err != nil {
		return nil, err
	}
	data, err := ask(ctx, conn, &q)
	if err != nil {
		if ctx.Err() != nil {
			return nil, cluster.Errorf(cluster.CodeTimeout, "the controller at %s did not answer", conn.RemoteAddr())
		}
		return nil, err
	}
	return read(data, mac, bind, t.Pin)
}

// read believes an answer of whoever holds the token.
func read(data, mac, bind []byte, pin [sha256.Size]byte) (*Answer, error) {
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, cluster.Errorf(cluster.CodeUnauthorized, "the controller's answer cannot be read: %v", err)
	}
	if !hmac.Equal(a.Proof, proveAnswer(mac, a.Body, bind)) {
		return nil, cluster.Errorf(cluster.CodeUnauthorized, "whoever answered does not hold the join token")
	}
	var out Answer
	if err := json.Unmarshal(a.Body, &out); err != nil {
		return nil, cluster.Errorf(cluster.CodeUnauthorized, "the controller's answer cannot be read: %v", err)
	}
	block, _ := pem.Decode([]byte(out.CA))
	if block == nil {
		return nil, cluster.Errorf(cluster.CodeUnauthorized, "the controller's answer has no certificate")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil || sha256.Sum256(ca.RawSubjectPublicKeyInfo) != pin {
		return nil, cluster.Errorf(cluster.CodeUnauthorized, "the controller's answer has the certificate of another cluster")
	}
	return &out, nil
}

// ask sends the one request of a connection and returns the body of a good answer.
func ask(ctx context.Context, conn net.Conn, q *request) ([]byte, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+conn.RemoteAddr().String()+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	failed := func(err error) error {
		return cluster.Errorf(cluster.CodeUnreachable, "the controller at %s ended the talk: %v", conn.RemoteAddr(), err).
			WithHint("try again; the token is still yours")
	}
	if err := r.Write(conn); err != nil {
		return nil, failed(err)
	}
	reply, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, mostAnswerBytes)), r)
	if err != nil {
		return nil, failed(err)
	}
	defer reply.Body.Close() //nolint:errcheck // it was read
	data, err := io.ReadAll(reply.Body)
	if err != nil {
		return nil, failed(err)
	}
	if reply.StatusCode == http.StatusOK {
		return data, nil
	}
	var e cluster.Error
	if json.Unmarshal(data, &e) != nil || e.Message == "" {
		return nil, cluster.Errorf(cluster.CodeUnauthorized, "the controller refused with status %d", reply.StatusCode)
	}
	return nil, &e
}

// connect returns the first connection to the token's cluster.
func connect(ctx context.Context, t Token) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	type result struct {
		conn *tls.Conn
		err  error
	}
	results := make(chan result, len(t.URLs)) // one of each
	for _, u := range t.URLs {
		go func() {
			conn, err := dial(ctx, u, t.Pin)
			results <- result{conn, err}
		}()
	}
	var first *tls.Conn
	var failed []error
	for range t.URLs {
		r := <-results
		switch {
		case r.err != nil:
			failed = append(failed, r.err)
		case first == nil:
			first = r.conn
			cancel() // the others may stop
		default:
			_ = r.conn.Close() // one is enough
		}
	}
	if first != nil {
		return first, nil
	}
	for _, err := range failed {
		if errors.Is(err, errOtherCluster) {
			return nil, cluster.Errorf(cluster.CodeUnauthorized, "%v", err).
				WithHint("somebody else answers there, or the cluster was made anew; ask for another token")
		}
	}
	return nil, cluster.Errorf(cluster.CodeUnreachable, "cannot reach the controller: %v", failed[0]).
		WithHint("is this Mac in the same network, and the token younger than its time? the controller listens for joins only while a token is good")
}

func dial(ctx context.Context, at string, pin [sha256.Size]byte) (*tls.Conn, error) {
	u, err := url.Parse(at)
	if err != nil {
		return nil, fmt.Errorf("read address: %w", err)
	}
	d := &tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: trust.ServerNameOfPin(pin), NextProtos: []string{"http/1.1"},
		// The usual check needs the CA itself; verify has its pin alone.
		InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error { return verify(&s, pin) },
	}}
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", u.Host, err)
	}
	return conn.(*tls.Conn), nil
}

// verify wants the CA of the pin in the chain, and the server's certificate signed by that for the cluster's name.
func verify(s *tls.ConnectionState, pin [sha256.Size]byte) error {
	roots := x509.NewCertPool()
	found := false
	for _, c := range s.PeerCertificates[1:] {
		if sha256.Sum256(c.RawSubjectPublicKeyInfo) == pin {
			roots.AddCert(c)
			found = true
		}
	}
	if !found {
		return errOtherCluster
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: trust.ServerNameOfPin(pin)})
	if err != nil {
		return fmt.Errorf("%w: %w", errOtherCluster, err)
	}
	return nil
}
