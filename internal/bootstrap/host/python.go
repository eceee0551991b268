package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// sendWait is how long all packages together may take to come.
const sendWait = 30 * time.Minute

// python makes sure of the environment of workers: from the network, else from packages that the operator's side sends.
func (s *session) python(ctx context.Context) error {
	s.talk.step(plan.StepPython, plan.StateRunning, "")
	request := PythonRequest{
		Home: s.order.Home, Interpreter: s.order.Settings.Python, Offline: s.order.Offline,
		Progress: func(line string) { s.talk.step(plan.StepPython, plan.StateRunning, line) },
	}
	changed, err := s.Python(ctx, request)
	if err != nil && len(s.order.Wheels) > 0 && context.Cause(ctx) == nil {
		var wheelsErr error
		if request.Wheels, wheelsErr = s.fetch(ctx); wheelsErr == nil {
			request.Offline = true
			changed, wheelsErr = s.Python(ctx, request)
		}
		if err = wheelsErr; err == nil {
			s.sweep(request.Wheels)
		}
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return s.failed(plan.StepPython, err)
	}
	s.settled(plan.StepPython, changed, "")
	return nil
}

var packageName = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+-]{0,200}\.(whl|tar\.gz|zip)$`)

// fetch has the operator's side send the packages that are not there, and returns their folder.
func (s *session) fetch(ctx context.Context) (string, error) {
	h := sha256.New()
	for _, f := range s.order.Wheels {
		if !packageName.MatchString(f.Name) {
			return "", cluster.Errorf(cluster.CodeInvalid, "%q cannot name a package", oneLine(f.Name))
		}
		_, _ = io.WriteString(h, f.Name+" "+f.SHA256+"\n") // a hash takes everything
	}
	dir := s.path("cache", "wheels", hex.EncodeToString(h.Sum(nil)[:6]))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make folder of packages: %w", err)
	}
	missing := s.missing(dir)
	if len(missing) == 0 {
		return dir, nil
	}
	s.talk.say(plan.FromHost{Type: plan.TypeNeed, Step: plan.StepPython, Files: missing, Folder: dir})
	if _, err := s.talk.expect(ctx, plan.TypeHave, sendWait); err != nil {
		return "", err
	}
	if still := s.missing(dir); len(still) > 0 {
		return "", cluster.Errorf(cluster.CodeConflict, "%d of %d packages did not come as they should, %s among them", len(still), len(missing), still[0].Name)
	}
	return dir, nil
}

func (s *session) missing(dir string) []plan.File {
	return slices.DeleteFunc(slices.Clone(s.order.Wheels), func(f plan.File) bool {
		sum, err := hashFile(filepath.Join(dir, f.Name))
		return err == nil && strings.EqualFold(sum, f.SHA256)
	})
}

// sweep removes the packages of other versions; those of this one may be needed for a repair.
func (s *session) sweep(keep string) {
	entries, err := os.ReadDir(s.path("cache", "wheels"))
	for _, e := range entries {
		if path := s.path("cache", "wheels", e.Name()); path != keep {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	if err != nil {
		s.Log.Warn("cannot remove old packages", "err", err)
	}
}
