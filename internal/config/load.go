package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const delimiter = "::"

// LocalContext names the cluster of this home; it exists without being written down.
const LocalContext = "local"

// Config holds every setting, once read.
type Config struct {
	Dirs     Dirs          `mapstructure:"-"`
	Contexts []Context     `mapstructure:"contexts"`
	Context  string        `mapstructure:"context"`
	Timeout  time.Duration `mapstructure:"timeout"`
	Color    string        `mapstructure:"color"`
	LogLevel string        `mapstructure:"log_level"`
	Name     string        `mapstructure:"name"`
	HTTPAddr string        `mapstructure:"http_addr"`
	NATSAddr string        `mapstructure:"nats_addr"`
	// NATSURL may name several servers, separated by commas.
	NATSURL        string    `mapstructure:"nats_url"`
	NATSCreds      string    `mapstructure:"nats_creds"`
	NATSCA         string    `mapstructure:"nats_ca"`
	NATSServerName string    `mapstructure:"nats_server_name"`
	HTTPURL        string    `mapstructure:"http_url"`
	Hosts          []string  `mapstructure:"hosts"` // as ParseHost reads them
	SSH            SSH       `mapstructure:"ssh"`
	APIKeyFile     string    `mapstructure:"api_key_file"`
	Deadlines      Deadlines `mapstructure:"deadlines"`
	Share          Share     `mapstructure:"share"`
	Models         Models    `mapstructure:"models"`

	origins map[string]Origin
	shown   map[string]any
	options []map[string]any // of single models, as the file has them
}

// Deadlines bound one request in the controller.
type Deadlines struct {
	Queue      time.Duration `mapstructure:"queue"`
	Accept     time.Duration `mapstructure:"accept"`
	FirstToken time.Duration `mapstructure:"first_token"`
	Gap        time.Duration `mapstructure:"gap"`
	Token      time.Duration `mapstructure:"token"`
	Total      time.Duration `mapstructure:"total"`
}

// Share says which identical requests share an answer.
type Share struct {
	InFlight    string        `mapstructure:"in_flight"` // off, on
	TTL         time.Duration `mapstructure:"ttl"`
	MemoryBytes int64         `mapstructure:"memory"`
}

// Models says what models may use on this machine.
type Models struct {
	MemoryBytes int64         `mapstructure:"memory"`
	MaxRows     int           `mapstructure:"max_rows"`
	IdleTTL     time.Duration `mapstructure:"idle_ttl"`
	StepTime    time.Duration `mapstructure:"step_time"`
	PrefixBytes int64         `mapstructure:"prefix_bytes"`
	PrefixShare int           `mapstructure:"prefix_share"`
	SessionTTL  time.Duration `mapstructure:"session_ttl"`
	StoredBits  int           `mapstructure:"stored_bits"`
	SpillBytes  int64         `mapstructure:"spill_bytes"`
	Speculate   string        `mapstructure:"speculate"`
	Wired       string        `mapstructure:"wired"`
	HubDirs     []string      `mapstructure:"hub_dirs"`
	// Options are those of single models.
	Options []ModelOptions `mapstructure:"options"`
}

// Context is a cluster that commands can talk to: one on this machine, by Home, or one reached over the network.
type Context struct {
	Name           string `mapstructure:"name" json:"name"`
	Home           string `mapstructure:"home" json:"home,omitempty"`
	Timeout        string `mapstructure:"timeout" json:"timeout,omitempty"`
	NATSURL        string `mapstructure:"nats_url" json:"nats_url,omitempty"`
	NATSCreds      string `mapstructure:"nats_creds" json:"nats_creds,omitempty"`
	NATSCA         string `mapstructure:"nats_ca" json:"nats_ca,omitempty"`
	NATSServerName string `mapstructure:"nats_server_name" json:"nats_server_name,omitempty"`
	HTTPURL        string `mapstructure:"http_url" json:"http_url,omitempty"`
	APIKeyFile     string `mapstructure:"api_key_file" json:"api_key_file,omitempty"`
}

// Options say where settings come from.
type Options struct {
	Dirs Dirs
	Env  Environ
	// Flags are the settings that the command line gave, by key.
	Flags map[string]string
}

// Load reads the settings. Its errors are one line and name the file, variable or flag at fault.
func Load(opts Options) (*Config, error) {
	f, err := readFile(opts.Dirs.File)
	if err != nil {
		return nil, err
	}
	l := &loader{v: viper.NewWithOptions(viper.KeyDelimiter(delimiter)), origins: map[string]Origin{}}
	if err := l.base(f); err != nil {
		return nil, err
	}
	above, err := upperLevels(opts)
	if err != nil {
		return nil, err
	}
	if err := l.context(f, above); err != nil {
		return nil, err
	}
	for _, s := range above {
		if err := l.set(s.key, s.value, s.origin); err != nil {
			return nil, err
		}
	}
	c := &Config{Dirs: opts.Dirs, origins: l.origins, shown: map[string]any{}}
	if err := l.v.UnmarshalExact(c, viper.DecodeHook(decodeHook())); err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	for _, k := range Keys() {
		c.shown[k.Name] = l.v.Get(k.path())
	}
	c.options, c.origins[optionsKey] = f.entries(optionsKey), Origin{Level: "default"}
	if node := f.lookup(optionsKey); node != nil {
		c.origins[optionsKey] = f.origin(node)
	}
	return c, nil
}

// setting is one value with the place that it came from.
type setting struct {
	key    Key
	value  any
	origin Origin
}

// upperLevels are the settings above the file, later ones winning.
func upperLevels(opts Options) ([]setting, error) {
	var out []setting
	for _, k := range Keys() {
		value, ok := opts.Env(k.Env())
		if !ok || value == "" {
			continue
		}
		if err := k.check(value); err != nil {
			return nil, &cluster.Error{Code: cluster.CodeInvalid, Message: k.Env() + " " + err.Error()}
		}
		out = append(out, setting{k, k.split(value), Origin{Level: "env", Where: k.Env()}})
	}
	for _, k := range Keys() {
		value, ok := opts.Flags[k.Name]
		if !ok {
			continue
		}
		flag := "--" + strings.ReplaceAll(k.Name, "_", "-")
		if err := k.check(value); err != nil {
			return nil, &cluster.Error{Code: cluster.CodeInvalid, Message: flag + " " + err.Error()}
		}
		out = append(out, setting{k, k.split(value), Origin{Level: "flag", Where: flag}})
	}
	return out, nil
}

// split makes the value of a list out of one string.
func (k Key) split(value string) any {
	switch k.Kind {
	case Strings:
		return filepath.SplitList(value)
	case Hosts:
		return splitHosts(value)
	default:
		return value
	}
}

// loader puts levels on top of each other, lowest first, and remembers which one gave each key.
type loader struct {
	v       *viper.Viper
	origins map[string]Origin
}

func (l *loader) set(k Key, value any, origin Origin) error {
	l.origins[k.Name] = origin
	m := map[string]any{}
	parts := strings.Split(k.Name, ".")
	at := m
	for _, p := range parts[:len(parts)-1] {
		next := map[string]any{}
		at[p] = next
		at = next
	}
	at[parts[len(parts)-1]] = value
	if err := l.v.MergeConfigMap(m); err != nil {
		return fmt.Errorf("set %s: %w", k.Name, err)
	}
	return nil
}

// base lays defaults and the file.
func (l *loader) base(f *file) error {
	for _, k := range Keys() {
		var value any = k.Default
		origin := Origin{Level: "default"}
		if k.Kind == Strings || k.Kind == Hosts {
			value = []string{}
		}
		if node := f.lookup(k.Name); node != nil {
			value, origin = scalarOrList(node), f.origin(node)
			if k.Kind == Hosts {
				value = hostTexts(node)
			}
		}
		if err := l.set(k, value, origin); err != nil {
			return err
		}
	}
	return l.v.MergeConfigMap(map[string]any{
		"contexts": f.entries("contexts"), "models": map[string]any{"options": f.entries(optionsKey)},
	})
}

// origin is the place of a value in the file.
func (f *file) origin(node *yaml.Node) Origin {
	return Origin{Level: "file", Where: fmt.Sprintf("%s:%d", f.path, node.Line)}
}

// context lays the entry of the context in use, which a flag or the environment may have chosen.
func (l *loader) context(f *file, above []setting) error {
	chosen, origin := l.v.GetString("context"), l.origins["context"]
	for _, s := range above {
		if s.key.Name == "context" {
			chosen, origin = s.value.(string), s.origin
		}
	}
	known := []string{LocalContext}
	for _, c := range f.entries("contexts") {
		name, _ := c["name"].(string)
		known = append(known, name)
		if name != chosen {
			continue
		}
		for _, k := range Keys() {
			if value, ok := c[k.Name]; ok && k.InContext {
				if err := l.set(k, value, Origin{Level: "context", Where: chosen}); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if chosen == LocalContext {
		return nil
	}
	return noContext(chosen, origin, known)
}

// decodeHook reads the kinds of values that strings stand for.
func decodeHook() mapstructure.DecodeHookFunc {
	return mapstructure.ComposeDecodeHookFunc(
		mapstructure.StringToTimeDurationHookFunc(),
		func(from, to reflect.Type, value any) (any, error) {
			s, ok := value.(string)
			if !ok || from.Kind() != reflect.String {
				return value, nil
			}
			switch to.Kind() {
			case reflect.Int64:
				return ParseBytes(s)
			case reflect.Int:
				return strconv.Atoi(s)
			default:
				return value, nil
			}
		},
	)
}
