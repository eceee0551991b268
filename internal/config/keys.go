package config

import "strings"

// Kind says how a setting is written.
type Kind int

// Kinds of settings.
const (
	Text     Kind = iota
	Duration      // 90s, 10m
	Address       // HOST:PORT
	URL           // one or more, separated by commas
	Size          // 24GiB; 0 means no limit of ours
	Count         // 0 or more
	Choice
	Strings // a list
	Percent // 0 to 90
	Path    // absolute
	File    // path of a file; a relative one is below the working folder
	Hosts   // a list of [USER@]HOST[:PORT], separated by commas
)

// Key describes one setting.
type Key struct {
	Name    string // as it is written in the file, parts joined by dots
	Kind    Kind
	Default string
	Choices []string
	Schemes []string // of a URL; empty means any
	// InContext says that a context may carry it too.
	InContext bool
	Doc       string
}

// Env is the environment variable that sets it.
func (k Key) Env() string {
	return "MLXCTL_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(k.Name))
}

func (k Key) path() string { return strings.ReplaceAll(k.Name, ".", delimiter) }

// Keys lists every setting in the order in which it is shown.
func Keys() []Key {
	return []Key{
		{Name: "context", Default: LocalContext, Doc: "the context to use"},
		{Name: "timeout", Kind: Duration, Default: "0s", InContext: true, Doc: "bound on each command's talk with the cluster; 0s leaves it to the command"},
		{Name: "color", Kind: Choice, Default: "auto", Choices: []string{"auto", "always", "never"}, Doc: "when to colour output"},
		{Name: "log_level", Kind: Choice, Default: "info", Choices: []string{"debug", "info", "warn", "error"}, Doc: "what the background services log"},
		{Name: "name", Doc: "the cluster's name, given when it is first made"},
		{Name: "http_addr", Kind: Address, Doc: "where the gateway listens"},
		{Name: "nats_addr", Kind: Address, Doc: "where the embedded NATS listens"},
		{Name: "nats_url", Kind: URL, Schemes: busSchemes(), InContext: true, Doc: "a NATS of your own instead of the embedded one"},
		{Name: "nats_creds", Kind: File, InContext: true, Doc: "credentials file for nats_url"},
		{Name: "nats_ca", Kind: File, InContext: true, Doc: "certificate authority of nats_url, PEM"},
		{Name: "nats_server_name", InContext: true, Doc: "name in the certificate of nats_url, where it is not the host"},
		{Name: "http_url", Kind: URL, Schemes: []string{"http", "https"}, InContext: true, Doc: "where clients reach the gateway"},
		{Name: "api_key_file", Kind: File, InContext: true, Doc: "file that holds the API key of http_url"},
		{Name: HostsKey, Kind: Hosts, Doc: "machines that `mlxctl up` makes nodes of, next to those that Bonjour finds: [USER@]HOST[:PORT]"},
		{Name: "ssh.transport", Kind: Choice, Default: "library", Choices: []string{"library", "openssh"}, Doc: "how other machines are reached; openssh runs the system's ssh"},
		{Name: "ssh.user", Doc: "whom to log in as where a host names nobody; empty leaves it to ssh_config"},
		{Name: "ssh.parallel", Kind: Count, Default: "8", Doc: "machines that are installed at a time; 0 means 8"},
		{Name: "deadlines.queue", Kind: Duration, Default: "10m0s", Doc: "for a node to be free for a request"},
		{Name: "deadlines.accept", Kind: Duration, Default: "2s", Doc: "for a node to accept a request"},
		{Name: "deadlines.first_token", Kind: Duration, Default: "10m0s", Doc: "for the first token, model loading included"},
		{Name: "deadlines.gap", Kind: Duration, Default: "10s", Doc: "between two signs of life of an answer"},
		{Name: "deadlines.token", Kind: Duration, Default: "2m0s", Doc: "between two pieces of an answer"},
		{Name: "deadlines.total", Kind: Duration, Default: "1h0m0s", Doc: "for a whole answer"},
		{Name: "share.in_flight", Kind: Choice, Default: "off", Choices: []string{"off", "on"}, Doc: "identical requests at temperature 0 that are answered at the same time share one generation"},
		{Name: "share.ttl", Kind: Duration, Default: "0s", Doc: "give an identical request at temperature 0 a finished answer again for this long; 0s never does"},
		{Name: "share.memory", Kind: Size, Default: "64MiB", Doc: "memory for finished answers; 0 means 64MiB"},
		{Name: "models.memory", Kind: Size, Default: "0", Doc: "memory that models on this machine may use in all; 0 lets the machine decide"},
		{Name: "models.max_rows", Kind: Count, Default: "0", Doc: "requests that one loaded model runs at once; 0 means 32"},
		{Name: "models.idle_ttl", Kind: Duration, Default: "30m0s", Doc: "unload a model after this long without a request; 0s never does"},
		{Name: "models.step_time", Kind: Duration, Default: "200ms", Doc: "how long one step of a loaded model may take; bounds the requests that it runs at once by its measured speed"},
		{Name: "models.prefix_bytes", Kind: Size, Default: "0", Doc: "memory of each loaded model for the beginnings of earlier prompts; 0 means an eighth, at most 1GiB"},
		{Name: "models.prefix_share", Kind: Percent, Default: "0", Doc: "the same in percent of what the model may use; models.prefix_bytes goes before"},
		{Name: "models.session_ttl", Kind: Duration, Default: "5m0s", Doc: "keep the beginnings of a session's prompts before all others for this long after its last request"},
		{Name: "models.stored_bits", Kind: Choice, Default: "0", Choices: []string{"0", "4", "8"}, Doc: "quantise stored beginnings of prompts; 0 does not"},
		{Name: "models.spill_bytes", Kind: Size, Default: "0", Doc: "disk space of each model for beginnings of prompts that memory has no room for; 0 uses none"},
		{Name: "models.speculate", Kind: Choice, Default: "auto", Choices: []string{"auto", "off"}, Doc: "guess several tokens ahead while a stream is alone"},
		{Name: "models.wired", Kind: Choice, Default: "weights", Choices: []string{"weights", "off"}, Doc: "what macOS must keep in memory"},
		{Name: "models.hub_dirs", Kind: Strings, Doc: "further Hugging Face cache folders to find models in"},
	}
}

func busSchemes() []string { return []string{"nats", "tls", "ws", "wss"} }

// contextKeys are the fields of one entry of "contexts".
func contextKeys() []Key {
	keys := []Key{{Name: "name"}, {Name: "home", Doc: "home folder of a cluster on this machine"}}
	for _, k := range Keys() {
		if k.InContext {
			keys = append(keys, k)
		}
	}
	return keys
}

// Lookup finds a setting by name.
func Lookup(name string) (Key, bool) {
	for _, k := range Keys() {
		if k.Name == name {
			return k, true
		}
	}
	return Key{}, false
}
