package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/mlxctl/mlxctl/internal/untrusted"
)

const (
	passwordTries   = 3
	passphraseTries = 3
	agentWait       = time.Minute
	mostKeys        = 12 // offered to one host; servers allow six by default, and more only cost time
)

// credentials are what one host is offered, in the order of ssh: the keys of the agent and of files, then what the
// operator types.
type credentials struct {
	b    *Bootstrap
	set  *settings
	ctx  context.Context //nolint:containedctx // the library's callbacks take none; it is that of one handshake
	wait *patience

	mu    sync.Mutex
	tried []string // guarded by mu; for people
	agent net.Conn
}

// Close ends the connection to the agent.
func (c *credentials) Close() {
	if c.agent != nil {
		_ = c.agent.Close()
	}
}

func (c *credentials) methods() []ssh.AuthMethod {
	out := []ssh.AuthMethod{ssh.PublicKeysCallback(c.signers)}
	if c.b.o.Ask == nil {
		return out
	}
	return append(out,
		ssh.RetryableAuthMethod(ssh.KeyboardInteractive(c.interactive), passwordTries),
		ssh.RetryableAuthMethod(ssh.PasswordCallback(c.password), passwordTries))
}

// offered lists what was tried, for people.
func (c *credentials) offered() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tried) == 0 {
		return "no key"
	}
	return strings.Join(c.tried, ", ")
}

func (c *credentials) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tried = append(c.tried, fmt.Sprintf(format, args...))
}

// signers collects the keys to offer: first those that are both configured and in the agent, then the agent's others,
// then those of files.
func (c *credentials) signers() ([]ssh.Signer, error) {
	files := c.files()
	wanted := map[string]bool{}
	for _, f := range files {
		wanted[string(f.PublicKey().Marshal())] = true
	}
	var first, others, out []ssh.Signer
	for _, s := range c.agentSigners() {
		switch {
		case wanted[string(s.PublicKey().Marshal())]:
			first = append(first, s)
		case !c.set.onlyThose:
			others = append(others, s)
		}
	}
	seen := map[string]bool{}
	for _, s := range append(append(first, others...), files...) {
		if blob := string(s.PublicKey().Marshal()); !seen[blob] && len(out) < mostKeys {
			seen[blob] = true
			out = append(out, s)
			c.note("%s", nameOf(s))
		}
	}
	return out, nil
}

// named is a signer that says where its key is from.
type named interface{ Name() string }

func nameOf(s ssh.Signer) string {
	if n, ok := s.(named); ok {
		return n.Name()
	}
	return ssh.FingerprintSHA256(s.PublicKey())
}

// namedKey is a key that is ready to sign.
type namedKey struct {
	ssh.AlgorithmSigner
	name string
	// pause stops the clock while an agent asks its owner; nil where nobody is asked.
	pause func() (resume func())
}

func (k namedKey) Name() string { return k.name }

// SignWithAlgorithm signs, which an agent may leave to its owner's finger.
func (k namedKey) SignWithAlgorithm(r io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if k.pause != nil {
		defer k.pause()()
	}
	return k.AlgorithmSigner.SignWithAlgorithm(r, data, algorithm)
}

func (c *credentials) agentSigners() []ssh.Signer {
	if c.set.agent == "" {
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(c.ctx, "unix", c.set.agent)
	if err != nil {
		c.b.o.Log.DebugContext(c.ctx, "no ssh agent", "path", c.set.agent, "error", err)
		return nil
	}
	c.agent = conn
	_ = conn.SetDeadline(time.Now().Add(agentWait))
	client := agent.NewClient(conn)
	keys, err := client.List()
	if err != nil {
		return nil
	}
	signers, err := client.Signers()
	if err != nil {
		return nil
	}
	var out []ssh.Signer
	for i, s := range signers {
		signer, ok := s.(ssh.AlgorithmSigner)
		if !ok || i >= len(keys) {
			continue
		}
		out = append(out, namedKey{AlgorithmSigner: signer, name: "agent's " + untrusted.Line(keys[i].Comment, mostName), pause: c.wait.pause})
	}
	return out
}

// files reads the configured keys, or else the usual ones.
func (c *credentials) files() []ssh.Signer {
	paths := c.set.identities
	if len(paths) == 0 {
		for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
			paths = append(paths, filepath.Join(c.b.home, ".ssh", "id_"+kind))
		}
	}
	var out []ssh.Signer
	for _, path := range paths {
		s, err := c.file(path)
		if err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				c.note("%s (%v)", path, err)
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

func (c *credentials) file(path string) (ssh.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return publicOnly(path)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err == nil {
		if s, ok := signer.(ssh.AlgorithmSigner); ok {
			return namedKey{AlgorithmSigner: s, name: path}, nil
		}
		return signer, nil
	}
	locked, ok := errors.AsType[*ssh.PassphraseMissingError](err)
	if !ok {
		return nil, errors.New("not a key that can be read")
	}
	pub := locked.PublicKey
	if pub == nil { // the old format does not say
		only, err := publicOnly(path)
		if err != nil {
			return nil, errors.New("locked, and no .pub file beside it")
		}
		pub = only.PublicKey()
	}
	return &lockedKey{c: c, path: path, data: data, pub: pub}, nil
}

// publicOnly is for a key whose private half only the agent has.
func publicOnly(path string) (ssh.Signer, error) {
	data, err := os.ReadFile(path + ".pub")
	if err != nil {
		return nil, err
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(bytes.TrimSpace(data))
	if err != nil {
		return nil, err
	}
	return &lockedKey{path: path, pub: pub}, nil
}

// lockedKey is a key in a file with a passphrase. The operator is asked for it only when a host would accept the key.
type lockedKey struct {
	c    *credentials
	path string
	data []byte // nil where there is no private half
	pub  ssh.PublicKey
}

func (k *lockedKey) Name() string             { return k.path }
func (k *lockedKey) PublicKey() ssh.PublicKey { return k.pub }

// Sign signs with the key's usual algorithm.
func (k *lockedKey) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(r, data, "")
}

// SignWithAlgorithm unlocks the key first.
func (k *lockedKey) SignWithAlgorithm(r io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if k.data == nil {
		return nil, fmt.Errorf("%s: the private key is not there", k.path)
	}
	var signer ssh.Signer
	unlock := func(passphrase string) error {
		var err error
		signer, err = ssh.ParsePrivateKeyWithPassphrase(k.data, []byte(passphrase))
		return err
	}
	err := errNobody
	for range passphraseTries {
		err = k.c.asked("passphrase of "+k.path, k.path, unlock)
		if err == nil || errors.Is(err, errNobody) || k.c.ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		k.c.note("%s is locked", k.path)
		return nil, fmt.Errorf("unlock %s: %w", k.path, err)
	}
	if s, ok := signer.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(r, data, algorithm)
	}
	return signer.Sign(r, data)
}

// asked asks the operator; the host's time to let us in does not run meanwhile.
func (c *credentials) asked(prompt, key string, use func(string) error) error {
	defer c.wait.pause()()
	return c.b.secrets.secret(c.ctx, prompt, key, use)
}

func (c *credentials) password() (answer string, err error) {
	c.note("password")
	err = c.asked(fmt.Sprintf("password of %s on %s", c.set.user, c.set.label), "", func(s string) error { answer = s; return nil })
	return answer, err
}

// interactive answers the questions of a host, of which macOS asks one: the password.
func (c *credentials) interactive(_, instruction string, questions []string, _ []bool) ([]string, error) {
	const mostQuestions = 4
	if len(questions) > mostQuestions {
		return nil, errors.New("the host asks too much")
	}
	if len(questions) > 0 {
		c.note("keyboard-interactive")
	}
	answers := make([]string, len(questions))
	for i, q := range questions {
		prompt := fmt.Sprintf("%s on %s asks: %s", c.set.user, c.set.label, untrusted.Line(instruction+" "+q, mostName))
		if err := c.asked(prompt, "", func(s string) error { answers[i] = s; return nil }); err != nil {
			return nil, err
		}
	}
	return answers, nil
}
