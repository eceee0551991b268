package enrol

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
	"github.com/mlxctl/mlxctl/internal/untrusted"
)

const (
	// mostConns bounds connections, and the times what each may take: whoever has no token can do no more than keep
	// these busy.
	mostConns    = 64
	readTimeout  = 5 * time.Second
	writeTimeout = 5 * time.Second
	endTimeout   = 2 * time.Second
	mostName     = 64 // bytes
	mostID       = 64 // bytes
	mostHardware = 64 // bytes
)

// ServerOptions say how nodes are admitted. Authority, Roster and Settings are required.
type ServerOptions struct {
	Authority *trust.Authority
	Roster    *roster.Roster
	// Settings are what an admitted node is to run with.
	Settings func() (json.RawMessage, error)
	// IsTaken says that a node which is not in the roster has an id; nil means that there are none.
	IsTaken func(cluster.NodeID) bool
	// IsDown says that a node of the roster is not up. Where a machine joins that had another id before, the entry of that is
	// replaced once it is down; nil means that none is.
	IsDown func(cluster.NodeID) bool
	Log    *slog.Logger // nil means silence
}

// Server admits nodes that know a token.
type Server struct {
	o     ServerOptions
	limit limiter
	conns connections
}

// NewServer makes a Server.
func NewServer(o ServerOptions) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.IsTaken == nil {
		o.IsTaken = func(cluster.NodeID) bool { return false }
	}
	if o.IsDown == nil {
		o.IsDown = func(cluster.NodeID) bool { return false }
	}
	return &Server{o: o}
}

// Serve answers on l until ctx ends, and closes it. It returns when nothing of it is left.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	secure, err := s.o.Authority.ServerTLS(time.Now())
	if err != nil {
		_ = l.Close() // nothing was served
		return err
	}
	secure.NextProtos = []string{"http/1.1"}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+path, s.join)
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug), ConnState: s.conns.changed,
	}
	srv.SetKeepAlivesEnabled(false)
	ended := make(chan error, 1) // the one result of Serve
	go func() { ended <- srv.Serve(tls.NewListener(l, secure)) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		if srv.Shutdown(end) != nil {
			_ = srv.Close() // whoever is left was given the time
		}
		err = <-ended
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve joins: %w", err)
}

func (s *Server) join(w http.ResponseWriter, r *http.Request) {
	if !s.limit.allow(r.RemoteAddr, time.Now()) {
		refuse(w, cluster.Errorf(cluster.CodeBusy, "too many tries to join").WithHint("wait some seconds and try again"))
		return
	}
	body, err := s.answer(r)
	if err != nil {
		e := cluster.AsError(err)
		if e.Code == cluster.CodeInternal {
			s.o.Log.Error("cannot admit a node", "remote", r.RemoteAddr, "err", err)
			e = cluster.Errorf(cluster.CodeInternal, "the controller cannot admit nodes now").
				WithHint("`mlxctl logs controller` there says why")
		} else {
			s.o.Log.Warn("a node was not admitted", "remote", r.RemoteAddr, "err", e)
		}
		refuse(w, e)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body) // whoever went away asks again
}

func refuse(w http.ResponseWriter, e *cluster.Error) {
	status := http.StatusForbidden
	switch e.Code {
	case cluster.CodeBusy:
		status = http.StatusTooManyRequests
	case cluster.CodeInvalid:
		status = http.StatusBadRequest
	case cluster.CodeConflict:
		status = http.StatusConflict
	case cluster.CodeInternal:
		status = http.StatusInternalServerError
	default:
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e) // whoever went away does not want to know
}

// answer admits whoever proves to hold a token.
func (s *Server) answer(r *http.Request) (*answer, error) {
	data, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, mostRequestBytes))
	if err != nil {
		return nil, cluster.Errorf(cluster.CodeInvalid, "the request has more than %d bytes, or ended early", mostRequestBytes)
	}
	var q request
	if json.Unmarshal(data, &q) != nil || q.ID == "" || q.Node == "" || q.Key == "" || len(q.ID) > mostID {
		return nil, cluster.Errorf(cluster.CodeInvalid, "the request to join cannot be read")
	}
	bind, err := binding(r.TLS)
	if err != nil {
		return nil, err
	}
	mac, err := s.check(&q, bind)
	if err != nil {
		return nil, err
	}
	token, err := s.admit(&q)
	if err != nil {
		return nil, err
	}
	settings, err := s.o.Settings()
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(Answer{JWT: token, CA: string(s.o.Authority.CAPEM()), Settings: settings})
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return &answer{Body: body, Proof: proveAnswer(mac, body, bind)}, nil
}

// check compares the proof, in a time that tells nothing: whether there is such a token is told to those who hold it.
func (s *Server) check(q *request, bind []byte) (mac []byte, err error) {
	_, mac, known, err := s.o.Authority.TokenKey(q.ID)
	if err != nil {
		return nil, err
	}
	if !known {
		mac = make([]byte, sha256.Size)
	}
	right := hmac.Equal(q.Proof, proveRequest(mac, q, s.o.Authority.Pin(), bind))
	if !known || !right {
		return nil, cluster.Errorf(cluster.CodeUnauthorized, "the controller knows no such join token").
			WithHint("it may have expired; `mlxctl token create` on the controller's Mac makes another")
	}
	if !trust.Verify(q.Key, q.Proof, q.Signature) {
		return nil, cluster.Invalid("key", "must be the public key of a user, and the node's own")
	}
	return mac, nil
}

// admit uses the token up, writes the node down and signs its key, in this order: whatever is lost after the first step
// comes back when the same node asks again.
func (s *Server) admit(q *request) (string, error) {
	now := time.Now()
	// A key that cannot be signed must not use the token up.
	token, err := s.o.Authority.SignAgent(q.Key, q.Node)
	if err != nil {
		return "", err
	}
	nodes, err := s.o.Roster.List()
	if err != nil {
		return "", err
	}
	t, _, ok, err := s.o.Authority.TokenKey(q.ID)
	if err != nil {
		return "", err
	}
	if ok && t.Used == nil && !t.IsExpired(now) { // nor must one that clashes with another node's; Admit finds it too late
		if err := roster.Clash(nodes, q.Node, q.Key); err != nil {
			return "", err
		}
	}
	i := slices.IndexFunc(nodes, func(n roster.Node) bool { return n.ID == q.Node })
	if i < 0 && s.o.IsTaken(q.Node) {
		return "", cluster.Errorf(cluster.CodeConflict, "node id %s is another node's", q.Node)
	}
	if err := s.o.Authority.UseToken(q.ID, q.Node, q.Key, now); err != nil {
		return "", err
	}
	n := roster.Node{
		ID: q.Node, Name: untrusted.Line(q.Name, mostName), Key: q.Key, Hardware: untrusted.Line(q.Hardware, mostHardware), By: "token",
		AddedAt: now.UTC(),
	}
	if i >= 0 && nodes[i].Key == q.Key {
		n = nodes[i] // what is known of how to reach it stays
		n.Hardware = cmp.Or(n.Hardware, untrusted.Line(q.Hardware, mostHardware))
	}
	if err := s.o.Roster.Admit(n); err != nil {
		return "", err
	}
	s.o.Log.Info("a node was admitted by token", "node", q.Node, "name", n.Name, "key", q.Key, "token", q.ID)
	return token, s.replace(nodes, &n)
}

// replace takes out of the roster what the machine of a node was before, under another id. One that is up is another machine,
// whatever the number says.
func (s *Server) replace(nodes []roster.Node, n *roster.Node) error {
	for i := range nodes {
		old := &nodes[i]
		isSame := old.ID != n.ID && old.By != "local" && old.Hardware != "" && old.Hardware == n.Hardware
		if !isSame || !s.o.IsDown(old.ID) {
			continue
		}
		if _, _, err := s.o.Authority.Revoke(old.Key); err != nil {
			return fmt.Errorf("revoke the key that %s had as node %s: %w", n.Name, old.ID, err)
		}
		if err := s.o.Roster.Remove(old.ID); err != nil {
			return err
		}
		s.o.Log.Info("a node has another id", "node", n.ID, "name", n.Name, "former", old.ID)
	}
	return nil
}
