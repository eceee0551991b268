package library

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// UserHubs lists the Hugging Face caches of this user, as Options.HubDirs of nil means them.
func UserHubs() []string { return userHubs(os.Getenv) }

// userHubs is where the Hugging Face libraries keep the cache of this user.
func userHubs(getenv func(string) string) []string {
	home := getenv("HOME")
	expand := func(path string) string {
		if rest, ok := strings.CutPrefix(path, "~"); ok && (rest == "" || rest[0] == '/') {
			return home + rest
		}
		return path
	}
	dir := getenv("HF_HUB_CACHE")
	if dir == "" {
		dir = getenv("HUGGINGFACE_HUB_CACHE")
	}
	if base := getenv("HF_HOME"); dir == "" && base != "" {
		dir = filepath.Join(base, "hub")
	}
	if base := getenv("XDG_CACHE_HOME"); dir == "" && base != "" {
		dir = filepath.Join(base, "huggingface", "hub")
	}
	if dir == "" {
		dir = filepath.Join("~", ".cache", "huggingface", "hub")
	}
	if dir = expand(dir); !filepath.IsAbs(dir) {
		return []string{} // a relative path would mean another folder in every process
	}
	return []string{dir}
}

const hubPrefix = "models--"

// hubName is what the hub allows: an organisation and a repository; old repositories have no organisation.
var hubName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?$`)

func isHubName(name string) bool {
	// Two dashes stand for the slash in names of folders.
	return hubName.MatchString(name) && !strings.Contains(name, "--") && !strings.Contains(name, "..")
}

func hubFolder(hub, name string) string {
	return filepath.Join(hub, hubPrefix+strings.ReplaceAll(name, "/", "--"))
}

// hubNames lists what the caches hold, whole or not, in order.
func (l *Library) hubNames() []string {
	var names []string
	for _, hub := range l.hubs {
		entries, err := os.ReadDir(hub)
		if err != nil {
			continue // there need not be a cache
		}
		for _, e := range entries {
			rest, ok := strings.CutPrefix(e.Name(), hubPrefix)
			name := strings.Replace(rest, "--", "/", 1)
			if ok && isHubName(name) && name != Tiny {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// locateInHub finds the snapshot of a name: the one that refs/main names or, where nothing was downloaded by that
// name, the only one there is. The error is os.ErrNotExist where the cache has no such model.
func locateInHub(hub, name string) (place, error) {
	folder := hubFolder(hub, name)
	if _, err := os.Stat(folder); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return place{}, os.ErrNotExist
		}
		return place{}, badModel("%s cannot be read: %s", folder, reason(err))
	}
	p := place{name: name, isHub: true}
	ref, err := os.ReadFile(filepath.Join(folder, "refs", "main"))
	switch {
	case err == nil:
		p.revision = strings.TrimSpace(string(ref))
	case errors.Is(err, os.ErrNotExist):
		entries, _ := os.ReadDir(filepath.Join(folder, "snapshots"))
		if len(entries) > 1 {
			return place{}, badModel("the Hugging Face cache has %d revisions of %s and refs/main names none", len(entries), name).
				WithHint("`hf download %s` gets the newest; or give one's folder below %s", name, filepath.Join(folder, "snapshots"))
		}
		for _, e := range entries {
			p.revision = e.Name()
		}
	default:
		return place{}, badModel("%s cannot be read: %s", filepath.Join(folder, "refs", "main"), reason(err))
	}
	if p.revision == "" {
		return place{}, p.explain(badModel("nothing of it was downloaded to the end"))
	}
	if strings.ContainsAny(p.revision, `/\`) || strings.HasPrefix(p.revision, ".") || len(p.revision) > 128 {
		return place{}, badModel("%s holds no revision", filepath.Join(folder, "refs", "main"))
	}
	p.dir = filepath.Join(folder, "snapshots", p.revision)
	if _, err := os.Stat(p.dir); err != nil {
		return place{}, p.explain(badModel("the snapshot %s is missing", short(p.revision)))
	}
	return p, nil
}

// explain tells what an error about a folder means for the name that led there.
func (p place) explain(err error) error {
	var e *cluster.Error
	if !p.isHub || !errors.As(err, &e) || e.Code != cluster.CodeBadModel {
		return err
	}
	told := badModel("%s in the Hugging Face cache cannot be used: %s", p.name, e.Message)
	told.Hint = e.Hint
	if told.Hint == "" {
		told = told.WithHint("`hf download %s` gets what is missing", p.name)
	}
	return told
}

func short(revision string) string { return revision[:min(len(revision), 12)] }
