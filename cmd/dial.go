package cmd

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"os"
	"strings"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/client"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/controller/api"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// connect finds the cluster of the context in use and connects to it.
func (d *deps) connect(ctx context.Context, cfg *config.Config) (clusterClient, error) {
	if d.dial != nil {
		return d.dial(ctx, cfg)
	}
	o, err := d.clientOptions(cfg)
	if err != nil {
		return nil, err
	}
	o.Bus.Log = d.log()
	c, err := client.Dial(ctx, o)
	if isLocal(cfg) && cluster.CodeOf(err) == cluster.CodeUnreachable {
		return nil, cluster.Errorf(cluster.CodeUnreachable, "the controller of this machine does not answer").
			WithHint("`mlxctl logs controller` says what it does; where that is nothing, `mlxctl up --local` starts it again")
	}
	if err != nil {
		return nil, err
	}
	return &remote{c}, nil
}

// clientOptions says how to reach the cluster of the context in use, and as whom.
func (d *deps) clientOptions(cfg *config.Config) (client.Options, error) {
	if isLocal(cfg) {
		return d.localClient(cfg)
	}
	o, err := busOptions(cfg.NATSURL, cfg.NATSCreds, cfg.NATSCA, cfg.NATSServerName)
	if err != nil {
		return client.Options{}, err
	}
	return client.Options{Bus: o, Name: clientName(o)}, nil
}

// localClient reaches a cluster on this machine. Who may read its home may sign users of it: each command is a user of
// its own, and no credentials lie about.
func (d *deps) localClient(cfg *config.Config) (client.Options, error) {
	home := homeOf(cfg)
	info, err := d.readInfo(home)
	if err != nil {
		return client.Options{}, err
	}
	if info == nil {
		return client.Options{}, notRunning(home)
	}
	local, _, err := readLocal(home)
	if err != nil {
		return client.Options{}, err
	}
	if local != nil && local.NATSURL != "" {
		o, err := local.externalBus()
		return client.Options{Bus: o, Name: clientName(o)}, err
	}
	authority, err := trust.Open(trustDir(home))
	if err != nil {
		return client.Options{}, err
	}
	name := "cli-" + rand.Text()
	o := embeddedBus(authority, info.NATS)
	o.Renew = func() (bus.Credentials, error) {
		return newUser(func(pub string) (string, error) { return authority.SignClient(pub, name) })
	}
	return client.Options{Bus: o, Name: name}, nil
}

// embeddedBus describes the connection to the server inside a controller.
func embeddedBus(a *trust.Authority, urls []string) bus.Options {
	return bus.Options{URLs: urls, RootCAs: a.CAPool(), ServerName: a.ServerName(), HandshakeFirst: true}
}

// busOptions describes the connection to the bus that settings name.
func busOptions(urls, creds, ca, serverName string) (bus.Options, error) {
	o := bus.Options{
		URLs: strings.Split(urls, ","), CredentialsFile: creds, ServerName: serverName,
		// Servers inside a controller begin with TLS; a server of the user's own usually does not.
		HandshakeFirst: strings.HasPrefix(serverName, "ctl.") && strings.HasSuffix(serverName, ".mlxctl"),
	}
	if ca == "" {
		return o, nil
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return o, unauthorizedKey("the certificate authority", err)
	}
	o.RootCAs = x509.NewCertPool()
	if !o.RootCAs.AppendCertsFromPEM(pem) {
		return o, cluster.Errorf(cluster.CodeUnauthorized, "%s holds no certificate", ca).WithHint("set nats_ca to a PEM file")
	}
	return o, nil
}

// clientName is the name that credentials of this cluster are for; others allow any.
func clientName(o bus.Options) string {
	if c, err := bus.CredentialsFromFile(o.CredentialsFile); err == nil {
		if name := trust.ClientName(c.JWT); name != "" {
			return name
		}
	}
	return "cli-" + rand.Text()
}

func homeOf(cfg *config.Config) string {
	if home := cfg.Current().Home; home != "" {
		return home
	}
	return cfg.Dirs.Home
}

// localEndpoint is the gateway of a cluster on this machine.
func (d *deps) localEndpoint(cfg *config.Config) (endpoint, error) {
	home := homeOf(cfg)
	info, err := d.readInfo(home)
	if err != nil {
		return endpoint{}, err
	}
	if info == nil {
		return endpoint{}, notRunning(home)
	}
	authority, err := trust.Open(trustDir(home))
	if err != nil {
		return endpoint{}, err
	}
	key, err := authority.APIKey()
	if err != nil {
		return endpoint{}, unauthorizedKey("the API key", err)
	}
	return endpoint{BaseURL: info.HTTP + "/v1", APIKey: key}, nil
}

// remote is a cluster reached over its bus.
type remote struct{ *client.Client }

func (r *remote) Watch(ctx context.Context) (feed, error) {
	f, err := r.Client.Watch(ctx)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (r *remote) Load(ctx context.Context, model string, node cluster.NodeID, pin bool) error {
	_, err := r.Client.Load(ctx, api.LoadRequest{Model: model, Node: node, Pinned: pin}, nil)
	return err
}

func (r *remote) Unload(ctx context.Context, model string, node cluster.NodeID, force bool) error {
	_, err := r.Client.Unload(ctx, api.UnloadRequest{Model: model, Node: node, Force: force})
	return err
}

func (r *remote) Logs(ctx context.Context, q logQuery, line func(string) error) error {
	body := api.LogsRequest{Request: q.Request, Node: q.Node, Source: q.Source, Follow: q.Follow, Tail: q.Tail}
	return r.Client.Logs(ctx, body, func(l bus.LogLine) error { return line(l.Text) })
}

// Close ends the connection; nothing waits for what it says.
func (r *remote) Close() { _ = r.Client.Close() }
