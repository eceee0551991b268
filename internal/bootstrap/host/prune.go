package host

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// versionsKept is how many versions stay, the one that runs among them.
const versionsKept = 3

// prune removes the oldest versions.
func (s *session) prune() error {
	entries, err := os.ReadDir(s.path("versions"))
	if err != nil {
		return fmt.Errorf("list versions: %w", err)
	}
	type version struct {
		name string
		at   time.Time
	}
	var others []version
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() || e.Name() == s.order.Version || !versionID.MatchString(e.Name()) {
			continue
		}
		others = append(others, version{e.Name(), info.ModTime()})
	}
	slices.SortFunc(others, func(a, b version) int { return b.at.Compare(a.at) })
	var failed error
	for _, v := range others[min(len(others), versionsKept-1):] {
		failed = errors.Join(failed, os.RemoveAll(s.path("versions", v.name)))
	}
	return failed
}
