package node_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keystead/keystead/node"
)

const hookSecret = "a secret of the webhook, 32 bytes or more"

// hooked is a server that is told of events: it fails, hangs or takes them.
type hooked struct {
	t      *testing.T
	server *httptest.Server

	mu       sync.Mutex
	status   int
	hang     chan struct{} // requests wait for it, unless it is nil
	attempts int
	taken    []string // "id event host"
	grown    chan struct{}
}

func newHooked(t *testing.T) *hooked {
	h := &hooked{t: t, status: http.StatusInternalServerError, grown: make(chan struct{}, 1024)}
	h.server = httptest.NewServer(h)
	t.Cleanup(h.server.Close)
	return h
}

func (h *hooked) set(status int, hang chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status, h.hang = status, hang
}

// ServeHTTP implements http.Handler.
func (h *hooked) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	mac := hmac.New(sha256.New, []byte(hookSecret))
	fmt.Fprintf(mac, "keystead-webhook/1\n%s\n%s", r.Header.Get("Keystead-Time"), body)
	if got, want := r.Header.Get("Keystead-Signature"), "hmac-sha256="+hex.EncodeToString(mac.Sum(nil)); got != want {
		h.t.Errorf("signed %s, not %s", got, want)
	}
	h.mu.Lock()
	h.attempts++
	status, hang := h.status, h.hang
	h.mu.Unlock()
	h.grown <- struct{}{}
	if hang != nil {
		select {
		case <-hang:
		case <-r.Context().Done():
			return
		}
	}
	if status == http.StatusOK {
		h.take(body)
	}
	w.WriteHeader(status)
}

func (h *hooked) take(body []byte) {
	var m struct {
		Format, Domain, Node string
		Events               []struct{ ID, Host, Event string }
	}
	if err := json.Unmarshal(body, &m); err != nil || m.Format != "keystead-webhook/1" || m.Node != "n1" || len(m.Events) == 0 {
		h.t.Errorf("%s: %v", body, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range m.Events {
		h.taken = append(h.taken, e.Event+" "+e.Host)
	}
	h.grown <- struct{}{}
}

// until waits for requests until it is so.
func (h *hooked) until(what string, so func() bool) {
	h.t.Helper()
	deadline := time.After(patience)
	for {
		h.mu.Lock()
		ok := so()
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-h.grown:
		case <-deadline:
			h.t.Fatalf("never: %s; %d attempts, %q taken", what, h.attempts, h.taken)
		}
	}
}

// TestWebhook delivers events to a server that fails at first and hangs then: hosts are
// admitted meanwhile, nothing is lost, also over a restart of the node, and nothing overtakes.
func TestWebhook(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	h := newHooked(t)
	dir := f.nodes[0].dir
	if err := os.WriteFile(filepath.Join(dir, "hook.secret"), []byte(hookSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, node.ConfigFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, fmt.Sprintf("\n[webhook]\nurl = %q\nsecret-file = \"hook.secret\"\n", h.server.URL+"/events")...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	again := func() {
		t.Helper()
		if err := f.end(0, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		f.start(0)
		f.whole(0, 1, 2)
	}
	again()
	position := filepath.Join(dir, "webhook.position")
	deadline := time.Now().Add(patience)
	for !exists(position) {
		if time.Now().After(deadline) {
			t.Fatal("the webhook never begins")
		}
		time.Sleep(20 * time.Millisecond) // between two looks at a directory
	}

	f.admitted("web-1")
	h.until("two refused attempts", func() bool { return h.attempts >= 2 })
	hang := make(chan struct{})
	h.set(http.StatusOK, hang)
	seen := 0
	h.until("an attempt that hangs", func() bool { seen = max(seen, h.attempts); return h.attempts >= 3 })
	began := time.Now()
	f.admitted("web-2")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("beside a server that hangs an admission takes %v", took)
	}
	h.set(http.StatusOK, nil)
	close(hang)
	want := []string{"admitted web-1", "admitted web-2"}
	h.until("both admissions", func() bool { return len(slices.Compact(slices.Clone(h.taken))) >= 2 })
	again()
	f.admitted("web-3")
	want = append(want, "admitted web-3")
	h.until("the third", func() bool { return slices.Contains(h.taken, "admitted web-3") })
	if got := slices.Compact(slices.Clone(h.taken)); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestWebhookConfig refuses what would send events in clear, or unsigned.
func TestWebhookConfig(t *testing.T) {
	config := func(section string) error {
		text := strings.Replace(node.ExampleConfig, "[webhook]\n", "[hook]\n", 1)
		begin, _, _ := strings.Cut(text, "[hook]")
		_, err := node.ParseConfig([]byte(begin + section))
		return err
	}
	good := config("[webhook]\nurl = \"https://example.org/x\"\nsecret-file = \"s\"\n")
	none := config("[webhook]\n")
	if (good == nil) != (none == nil) {
		t.Fatalf("%v, %v", good, none)
	}
	for name, section := range map[string]string{
		"http elsewhere": "url = \"http://example.org/x\"\nsecret-file = \"s\"\n",
		"no scheme":      "url = \"example.org\"\nsecret-file = \"s\"\n",
		"a password":     "url = \"https://a:b@example.org/\"\nsecret-file = \"s\"\n",
		"no secret":      "url = \"https://example.org/\"\n",
	} {
		if err := config("[webhook]\n" + section); err == nil || !strings.Contains(err.Error(), "webhook.") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
