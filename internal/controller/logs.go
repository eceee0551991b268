package controller

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller/api"
	"github.com/mlxctl/mlxctl/internal/logtail"
)

func (c *Controller) serveLogs(ctx context.Context, decode func(any) error, w *bus.StreamWriter) error {
	var body api.LogsRequest
	if err := decode(&body); err != nil {
		return err
	}
	return c.Logs(ctx, body, func(line bus.LogLine) error { return w.Send(line) })
}

// Logs gives lines of a log of a node, or of the controller where no node is named, and with Follow those that are
// added until ctx ends; or a line for each answer to a request that is known here.
func (c *Controller) Logs(ctx context.Context, q api.LogsRequest, line func(bus.LogLine) error) error {
	if q.Tail < 0 {
		return cluster.Invalid("tail", "must not be negative")
	}
	ctx, leave, err := c.gate.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if q.Request != "" {
		return c.requestLog(ctx, q.Request, line)
	}
	if q.Node == "" {
		return c.ownLog(ctx, q, line)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body := bus.LogsRequest{Source: q.Source, Follow: q.Follow, Tail: q.Tail}
	stream, detach, err := c.openStream(ctx, cancel, q.Node, bus.VerbLogs, rand.Text(), body)
	if err != nil {
		return typed(ctx, err)
	}
	defer detach()
	defer func() { _ = stream.Close() }() // it gives no error
	for {
		var l bus.LogLine
		err := stream.Next(ctx, &l)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = line(l)
		}
		if err != nil {
			stream.Cancel()
			return typed(ctx, causeOr(ctx, err))
		}
	}
}

func (c *Controller) ownLog(ctx context.Context, q api.LogsRequest, line func(bus.LogLine) error) error {
	if q.Source != "" && q.Source != "controller" {
		return cluster.Invalid("source", "of the controller is \"controller\"; name a node for others")
	}
	if c.o.LogFile == "" {
		return cluster.Errorf(cluster.CodeUnsupported, "this controller logs to no file")
	}
	folder, name := filepath.Split(c.o.LogFile)
	l := logtail.New(logtail.Dir(folder), name, func(text string) error { return line(bus.LogLine{Text: text}) })
	defer l.Close()
	err := l.Last(q.Tail, q.Follow)
	if errors.Is(err, fs.ErrNotExist) {
		return cluster.Errorf(cluster.CodeInvalid, "there is no log at %s", c.o.LogFile)
	}
	if err != nil || !q.Follow {
		return err
	}
	return logtail.Follow(ctx, l)
}

// requestLog gives what is known of a request as lines of a log.
func (c *Controller) requestLog(ctx context.Context, id cluster.RequestID, line func(bus.LogLine) error) error {
	gone, here := c.ledger.of(id)
	var text bytes.Buffer
	h := slog.NewTextHandler(&text, nil)
	write := func(at time.Time, r *cluster.RequestStatus, level slog.Level, what string, more ...slog.Attr) error {
		entry := slog.NewRecord(at, level, what, 0)
		entry.AddAttrs(slog.String("req", string(r.ID)), slog.String("model", r.Model), slog.String("node", string(r.Node)),
			slog.Int("attempts", r.Attempt), slog.Int("tokens", r.Tokens), slog.Duration("dur", at.Sub(r.Since)))
		if r.FirstToken != nil {
			entry.AddAttrs(slog.Duration("ttft", r.FirstToken.Sub(r.Since)))
		}
		entry.AddAttrs(more...)
		text.Reset()
		if err := h.Handle(ctx, entry); err != nil {
			return fmt.Errorf("write line about request: %w", err)
		}
		return line(bus.LogLine{Text: strings.TrimSuffix(text.String(), "\n")})
	}
	for i := range gone {
		e := &gone[i]
		level, what, why := slog.LevelInfo, "request answered", []slog.Attr(nil)
		if e.code != "" {
			level, what = slog.LevelWarn, "request failed"
			if e.code == cluster.CodeCancelled {
				level, what = slog.LevelInfo, "request cancelled"
			}
			why = []slog.Attr{slog.String("code", string(e.code)), slog.String("err", e.reason)}
		}
		if err := write(e.at, &e.RequestStatus, level, what, why...); err != nil {
			return err
		}
	}
	now := c.now()
	for i := range here {
		if err := write(now, &here[i], slog.LevelInfo, "request "+string(here[i].State)); err != nil {
			return err
		}
	}
	return nil
}
