package bootstrap

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// KeyState is what is known of a host's key.
type KeyState string

// States of a host key. An empty one means that the host showed none.
const (
	KeyKnown   KeyState = "known"
	KeyNew     KeyState = "new"     // the operator has not agreed to it yet
	KeyChanged KeyState = "changed" // another one was agreed to; nothing goes on
)

// HostKey is the key that a host showed.
type HostKey struct {
	State       KeyState `json:"state,omitempty"`
	Type        string   `json:"type,omitempty"`
	Fingerprint string   `json:"fingerprint,omitempty"` // "SHA256:…"

	key  ssh.PublicKey
	name string // under which it was shown, with the port
}

// changedKeyError is a host that shows another key than the one that is known.
type changedKeyError struct {
	name      string // with the port, as it is in the file
	where     string
	line      int
	had, has  string // fingerprints
	isRevoked bool
}

func (e *changedKeyError) Error() string {
	if e.isRevoked {
		return fmt.Sprintf("host key %s of %s is revoked by %s:%d", e.has, e.name, e.where, e.line)
	}
	return fmt.Sprintf("host key of %s changed: %s:%d has %s, it shows %s", e.name, e.where, e.line, e.had, e.has)
}

// mend is the command that forgets the old key, for an operator who knows why it changed.
func (e *changedKeyError) mend() string {
	if e.isRevoked {
		return fmt.Sprintf("give that host a new key; line %d of %s revokes this one", e.line, e.where)
	}
	return fmt.Sprintf("if that Mac was set up anew: ssh-keygen -R %s -f %s", quote(e.name), quote(e.where))
}

// newKeyError is a host whose key nobody agreed to yet.
type newKeyError struct{ name, fingerprint string }

func (e *newKeyError) Error() string {
	return fmt.Sprintf("host key %s of %s is not known", e.fingerprint, e.name)
}

// knownHosts reads our own file of host keys and the operator's, and adds to our own.
type knownHosts struct {
	own string
	log *slog.Logger

	mu      sync.Mutex // while the own file is appended to
	badMu   sync.Mutex
	damaged []string // lines of the own file that are left out, as "path:line"; guarded by badMu
}

// keyDB is what was read of files of host keys.
type keyDB struct {
	*knownhosts.HostKeyDB
	paths map[string]string // of a copy without damaged lines, to the file itself
}

// path is the file that a key is in.
func (db *keyDB) path(name string) string { return cmp.Or(db.paths[name], name) }

// database reads the files that are there, without lines that are damaged. A file that cannot be read is left out.
func (k *knownHosts) database(files []string) *keyDB {
	out := &keyDB{paths: map[string]string{}}
	var usable []string
	for _, path := range append([]string{k.own}, files...) {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		sound, damaged, err := soundLines(path)
		if err != nil {
			k.log.Warn("file of host keys cannot be read", "path", path, "error", err)
			continue
		}
		if sound != path {
			defer os.Remove(sound) //nolint:errcheck // a file in the folder for those that are left behind
			out.paths[sound] = path
			k.log.Warn("damaged lines of a file of host keys are left out", "path", path, "lines", damaged)
		}
		if path == k.own {
			k.note(damaged)
		}
		usable = append(usable, sound)
	}
	var err error
	if out.HostKeyDB, err = knownhosts.NewDB(usable...); err != nil { // somebody changed one meanwhile
		k.log.Warn("files of host keys cannot be read", "error", err)
		out.HostKeyDB, _ = knownhosts.NewDB()
	}
	return out
}

// mostDamaged is how many damaged lines a file of host keys may have; with more it is something else.
const mostDamaged = 100

// soundLines is path where every line of it can be read, else a copy in which those that cannot are comments: a key is told
// of by its line.
func soundLines(path string) (sound string, damaged []int, err error) {
	sound = path
	for {
		_, err := knownhosts.NewDB(sound)
		if err == nil {
			return sound, damaged, nil
		}
		// The package says the line in its text alone.
		rest, ok := strings.CutPrefix(err.Error(), "knownhosts: "+sound+":")
		number, _, _ := strings.Cut(rest, ":")
		line, convErr := strconv.Atoi(number)
		if !ok || convErr != nil || line < 1 || len(damaged) == mostDamaged {
			return "", nil, errors.Join(err, dropCopy(sound, path))
		}
		damaged = append(damaged, line)
		last := sound
		sound, err = withoutLine(last, line)
		if err := errors.Join(err, dropCopy(last, path)); err != nil {
			return "", nil, err
		}
	}
}

func dropCopy(sound, path string) error {
	if sound == path {
		return nil
	}
	return os.Remove(sound)
}

// withoutLine copies a file with one line, counted from 1, as a comment.
func withoutLine(path string, line int) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	lines := strings.Split(string(data), "\n")
	if line > len(lines) {
		return "", fmt.Errorf("%s has no line %d any more", path, line)
	}
	lines[line-1] = "#"
	f, err := os.CreateTemp("", "mlxctl-known-hosts-")
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(strings.Join(lines, "\n"))
	if err := errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func (k *knownHosts) note(damaged []int) {
	k.badMu.Lock()
	defer k.badMu.Unlock()
	k.damaged = nil
	for _, line := range damaged {
		k.damaged = append(k.damaged, fmt.Sprintf("%s:%d", k.own, line))
	}
}

// finding says which lines of the own file are left out; nil where none is.
func (k *knownHosts) finding() *plan.Finding {
	k.badMu.Lock()
	defer k.badMu.Unlock()
	if len(k.damaged) == 0 {
		return nil
	}
	return &plan.Finding{
		Check: CheckConfig, State: plan.FindingWarn, Message: "no host key, and left out: " + strings.Join(k.damaged, ", "),
		Fix: "remove what stands there; `mlxctl up` asks for a key that is missing then",
	}
}

// algorithms lists the kinds of keys that are known for a host, so that it shows one of those.
func algorithms(db *keyDB, s *settings) []string {
	return db.HostKeyAlgorithms(s.keyAddress())
}

// check compares a key with what is known of the name that the operator would use. The address it was shown at says
// nothing: it is somebody else's tomorrow, and an advert may give a name of its own to the address of any host.
func check(db *keyDB, s *settings, key ssh.PublicKey) (HostKey, error) {
	k := HostKey{State: KeyNew, Type: key.Type(), Fingerprint: ssh.FingerprintSHA256(key), key: key, name: s.keyAddress()}
	verify := db.HostKeyCallback()
	err := verify(s.keyAddress(), &net.TCPAddr{Port: s.port}, key)
	if err == nil {
		k.State = KeyKnown
		return k, nil
	}
	changed := &changedKeyError{name: knownhosts.Normalize(s.keyAddress()), has: k.Fingerprint}
	if revoked, ok := errors.AsType[*xknownhosts.RevokedError](err); ok {
		k.State = KeyChanged
		changed.isRevoked, changed.where, changed.line = true, db.path(revoked.Revoked.Filename), revoked.Revoked.Line
		return k, changed
	}
	wrong, ok := errors.AsType[*xknownhosts.KeyError](err)
	switch {
	case !ok: // a certificate that does not hold
		return k, err
	case len(wrong.Want) > 0:
		k.State = KeyChanged
		changed.where, changed.line, changed.had = db.path(wrong.Want[0].Filename), wrong.Want[0].Line, ssh.FingerprintSHA256(wrong.Want[0].Key)
		return k, changed
	}
	return k, &newKeyError{name: s.keyAddress(), fingerprint: k.Fingerprint}
}

// Trust writes down the new keys of hosts, after the operator agreed to them. Nothing else is known of those hosts yet:
// probe them again. The keys that were written down are KeyKnown then, also where there is an error.
func (b *Bootstrap) Trust(hosts []*Host) error {
	for _, h := range hosts {
		if h.Key.State != KeyNew || h.Key.key == nil {
			continue
		}
		if err := b.known.add(h.Key.name, h.Key.key); err != nil {
			return cluster.Errorf(cluster.CodeInternal, "write down the host key of %s: %v", h.Label(), err)
		}
		h.Key.State = KeyKnown
	}
	return nil
}

func (k *knownHosts) add(name string, key ssh.PublicKey) (err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(k.own), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(k.own, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	line := knownhosts.Line([]string{name}, key) + "\n"
	if info, err := f.Stat(); err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			line = "\n" + line // somebody was killed in the middle of a line
		}
	}
	if _, err := f.WriteString(line); err != nil {
		return err
	}
	return f.Sync()
}
