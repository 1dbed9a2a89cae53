package watchnode

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/conf"
)

// WebhookConfig is where events of hosts are delivered.
type WebhookConfig struct {
	URL        string `toml:"url"`
	SecretFile string `toml:"secret-file"`
	Prefix     string `toml:"prefix"`
	Renewals   bool   `toml:"renewals"`
}

// Check reports what is wrong with it.
func (c *WebhookConfig) Check() error {
	if c.URL == "" {
		return nil
	}
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http":
		return conf.Bad("webhook.url is %.80q, not https://HOST/PATH", c.URL)
	case u.Scheme == "http" && !conf.Loopback(u.Host) && !conf.Loopback(u.Host+":80"):
		return conf.Bad("webhook.url: http is for a loopback address; use https")
	case c.SecretFile == "":
		return conf.Bad("webhook.secret-file must be set: a file with at least 32 bytes, which whoever is told has as well")
	}
	return nil
}

// How events are delivered.
const (
	webhookTime = 10 * time.Second // for one attempt
	webhookMin  = time.Second      // between attempts: doubled from one to the next
	webhookMax  = time.Minute
	webhookFile = "webhook.position" // in the node's directory: what was delivered
	minSecret   = 32                 // bytes
	maxReply    = 64 << 10           // bytes that are read of an answer, so that its connection serves again
)

// webhook delivers events to one server, in order, each message until it was taken.
type webhook struct {
	part   *Part
	cfg    WebhookConfig
	secret []byte
	client *http.Client
	path   string
}

// position is up to where events were delivered.
type position struct {
	Next    uint64 `json:"next"`
	ClockMS uint64 `json:"clock_ms"`
}

// openWebhook returns nil if none is configured.
func openWebhook(p *Part) (*webhook, error) {
	c, self := p.cfg, p.host.Self()
	if c.URL == "" {
		return nil, nil
	}
	path := c.SecretFile
	if !filepath.IsAbs(path) {
		path = filepath.Join(self.Dir, path)
	}
	secret, err := conf.ReadSecret(path)
	if err != nil {
		return nil, fmt.Errorf("webhook.secret-file: %w", err)
	}
	if secret = bytes.TrimSpace(secret); len(secret) < minSecret {
		return nil, conf.Bad("webhook.secret-file %s has %d bytes, at least %d are wanted", path, len(secret), minSecret)
	}
	return &webhook{part: p, cfg: c, secret: secret, path: filepath.Join(self.Dir, webhookFile),
		client: &http.Client{Timeout: webhookTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// loop watches as any watcher does, from where it was. The ledger is its queue: a server
// that is slow or gone holds up nothing but this loop.
func (w *webhook) loop(ctx context.Context) error {
	pause := webhookMin
	for ctx.Err() == nil {
		at, err := w.load()
		if err == nil {
			err = w.part.watch(ctx, &apiv1.WatchHostsRequest{From: at.Next, AfterMs: at.ClockMS, Live: at == position{}, Prefix: w.cfg.Prefix, Renewals: w.cfg.Renewals}, nil,
				func(m *apiv1.WatchHostsResponse) error {
					if len(m.GetEvents()) > 0 {
						if err := w.deliver(ctx, m); err != nil {
							return err
						}
						pause = webhookMin
					}
					return w.save(position{m.GetNext(), m.GetClockMs()})
				})
		}
		if ctx.Err() != nil {
			return nil
		}
		w.part.host.Self().Log.Warn("events not delivered; tried again", "url", w.cfg.URL, "in", pause, "because", err)
		select {
		case <-time.After(pause):
			pause = min(2*pause, webhookMax)
		case <-ctx.Done():
		}
	}
	return nil
}

// load returns a zero position if nothing was ever delivered: then it begins with what
// happens next.
func (w *webhook) load() (at position, err error) {
	raw, err := os.ReadFile(w.path)
	if errors.Is(err, fs.ErrNotExist) {
		return at, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &at)
	}
	return at, err
}

// save replaces the position.
func (w *webhook) save(at position) error {
	raw, err := json.Marshal(at)
	if err != nil {
		return err
	}
	next := w.path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := conf.WriteNew(next, raw); err != nil { // synced: a position that is cut off is none
		return err
	}
	return os.Rename(next, w.path)
}

// message is what a server is sent (docs/spec/webhook.md).
type message struct {
	Format string            `json:"format"`
	Domain string            `json:"domain"`
	Node   string            `json:"node"`
	Events []json.RawMessage `json:"events"`
}

// deliver sends one message, once. Any status but 2xx is a failure.
func (w *webhook) deliver(ctx context.Context, m *apiv1.WatchHostsResponse) error {
	self := w.part.host.Self()
	x := message{Format: "keystead-webhook/1", Domain: self.Domain.String(), Node: self.Name}
	for _, e := range m.GetEvents() {
		raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e)
		if err != nil {
			return err
		}
		x.Events = append(x.Events, raw)
	}
	body, err := json.Marshal(x)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	at := strconv.FormatInt(time.Now().Unix(), 10)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Keystead-Time", at)
	r.Header.Set("Keystead-Signature", "hmac-sha256="+hex.EncodeToString(signWebhook(w.secret, at, body)))
	answer, err := w.client.Do(r)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxReply)) // what it says beyond its status does not matter
	answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("the server answers %s", answer.Status)
	}
	return nil
}

// signWebhook signs a message as of a time, Unix seconds in decimal.
func signWebhook(secret []byte, at string, body []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("keystead-webhook/1\n" + at + "\n"))
	mac.Write(body)
	return mac.Sum(nil)
}
