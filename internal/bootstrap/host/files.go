package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/durable"
)

const (
	idDigits = 12 // of the hash in the name of a version
	lockWait = 2 * time.Second
	mostFile = 16 << 20
)

var versionID = regexp.MustCompile(`^[0-9A-Za-z_][0-9A-Za-z._+-]{0,120}-[0-9a-f]{12}$`)

func (s *session) path(names ...string) string {
	return filepath.Join(append([]string{s.order.Home}, names...)...)
}

func (s *session) binary(version string) string { return s.path("versions", version, "mlxctl") }

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// lockHome makes changing a home one at a time. Who holds it is written into the file, for whoever comes second.
func lockHome(ctx context.Context, home, operator string) (unlock func(), err error) {
	if err := durable.MkdirAll(home, 0o700); err != nil {
		return nil, fmt.Errorf("make home: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	path := filepath.Join(home, "lock")
	l, err := durable.Lock(ctx, path)
	if ctx.Err() != nil && err != nil {
		owner, _ := readFile(path) // a lock without a name is one as well
		return nil, cluster.Errorf(cluster.CodeConflict, "%s is being changed by %s", home, oneLine(string(owner))).
			WithHint("wait until that is done")
	}
	if err != nil {
		return nil, err
	}
	owner := fmt.Sprintf("%s (here pid %d, since %s)\n", oneLine(operator), os.Getpid(), time.Now().UTC().Format(time.RFC3339))
	if err := os.WriteFile(path, []byte(owner), 0o600); err != nil && !errors.Is(err, unix.ENOSPC) { // the file stays the one that is locked
		l.Release()
		return nil, fmt.Errorf("write lock: %w", err)
	}
	return l.Release, nil
}

// readFile returns nil where there is none.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, mostFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// owner is whose node the home says that it is. A file that is not there or damaged says nothing.
func (s *session) owner() plan.Owner {
	var identity struct {
		ID cluster.NodeID `json:"id"`
	}
	var settings plan.Settings
	if data, err := readFile(s.path("agent", "node.json")); err == nil {
		_ = json.Unmarshal(data, &identity)
	}
	if data, err := readFile(s.path("node.json")); err == nil {
		_ = json.Unmarshal(data, &settings)
	}
	o := plan.Owner{Node: identity.ID, Cluster: settings.Cluster, ClusterID: settings.ClusterID}
	if len(settings.URLs) > 0 {
		o.URL = settings.URLs[0]
	}
	return o
}

// restore makes a file hold data, or not be there where that is nil. It is on the disk when restore returns.
func restore(path string, data []byte) error {
	if data == nil {
		return durable.Remove(path)
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return durable.Write(path, data, 0o600)
}

// syncVersion has a version be on the disk, with its name: who copied it here may not have waited for that, and after a
// power cut current would lead to an empty binary.
func syncVersion(dir string) error {
	f, err := os.Open(filepath.Join(dir, "mlxctl"))
	if err != nil {
		return fmt.Errorf("open the binary: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	for _, folder := range []string{dir, filepath.Dir(dir), filepath.Dir(filepath.Dir(dir))} {
		if err := durable.SyncDir(folder); err != nil {
			return err
		}
	}
	return nil
}

// flip makes the order's version the current one, once that is whole and on the disk.
func (s *session) flip(t *target) error {
	if err := syncVersion(s.path(t.current)); err != nil {
		return err
	}
	if err := s.checkVersion(); err != nil { // it may have been changed since
		return err
	}
	return pointTo(s.order.Home, t.current)
}

// pointTo makes the link current point to a folder, in one step; "" takes it away.
func pointTo(home, target string) error {
	link := filepath.Join(home, "current")
	if target == "" {
		return restore(link, nil)
	}
	tmp := filepath.Join(home, ".current.new")
	if err := restore(tmp, nil); err != nil {
		return err
	}
	err := os.Symlink(target, tmp)
	if err == nil {
		err = durable.Rename(tmp, link)
	}
	if err != nil {
		return fmt.Errorf("point current to %s: %w", target, err)
	}
	return nil
}

// pointsTo is where current points to; "" where it is not there.
func pointsTo(home string) string {
	target, err := os.Readlink(filepath.Join(home, "current"))
	if err != nil {
		return ""
	}
	return target
}

func encode(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return append(data, '\n'), nil
}
