package config

import (
	"errors"
	"path/filepath"
)

// Environ looks an environment variable up; os.LookupEnv is one.
type Environ func(name string) (value string, ok bool)

// Dirs are the folders and the file that belong to one user and one cluster on this machine. All paths are absolute.
type Dirs struct {
	// Home holds all state of one cluster and its agent: identity, logs, sockets. Two homes never meet.
	Home string
	// Cache holds what can be made again: Python environments and extracted models. Homes share it.
	Cache string
	// File is the configuration file; it may be absent.
	File string
}

// Locate finds the folders by the platform's convention, or where MLXCTL_HOME and MLXCTL_CACHE say.
func Locate(env Environ, goos string) (Dirs, error) {
	get := func(name string) string {
		v, _ := env(name)
		return v
	}
	user := get("HOME")
	home, cache := get("MLXCTL_HOME"), get("MLXCTL_CACHE")
	if user == "" && (home == "" || cache == "") {
		return Dirs{}, errors.New("neither HOME nor both of MLXCTL_HOME and MLXCTL_CACHE are set")
	}
	d := Dirs{Home: home, Cache: cache}
	if home != "" {
		d.File = filepath.Join(home, "config.yaml")
	} else {
		d.Home = defaultHome(get, user, goos)
		d.File = filepath.Join(first(get("XDG_CONFIG_HOME"), filepath.Join(user, ".config")), "mlxctl", "config.yaml")
	}
	if cache == "" {
		d.Cache = defaultCache(get, user, goos)
	}
	for _, p := range []*string{&d.Home, &d.Cache, &d.File} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return Dirs{}, err
		}
		*p = abs
	}
	return d, nil
}

func defaultHome(get func(string) string, user, goos string) string {
	if goos == "darwin" {
		return filepath.Join(user, ".mlxctl")
	}
	return filepath.Join(first(get("XDG_STATE_HOME"), filepath.Join(user, ".local", "state")), "mlxctl")
}

func defaultCache(get func(string) string, user, goos string) string {
	if goos == "darwin" {
		return filepath.Join(user, "Library", "Caches", "mlxctl")
	}
	return filepath.Join(first(get("XDG_CACHE_HOME"), filepath.Join(user, ".cache")), "mlxctl")
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
