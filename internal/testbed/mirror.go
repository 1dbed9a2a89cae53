package testbed

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/keystead/keystead/internal/debrepo"
)

// Mirror is a signed Debian repository that this machine serves to guests and to those
// who prove packages.
type Mirror struct {
	signer *debrepo.Signer
	server *http.Server
	port   int

	mu    sync.Mutex
	files map[string][]byte
}

// The mirror's suite, and where its key lies.
const (
	mirrorSuite = "bed"
	MirrorKey   = "/etc/apt/bed.gpg"
)

// NewMirror serves a repository without packages, at a port of its own.
func NewMirror() (*Mirror, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m := &Mirror{signer: debrepo.NewSigner("bed", time.Now().Add(-time.Hour), 0), port: l.Addr().(*net.TCPAddr).Port}
	m.server = &http.Server{Handler: m, ReadHeaderTimeout: time.Minute}
	go m.server.Serve(l) // until Close
	return m, nil
}

// Offer replaces what the repository offers.
func (m *Mirror) Offer(packages ...debrepo.Package) {
	r := debrepo.Repository{Suite: mirrorSuite, Date: time.Now().Add(-time.Minute), Packages: packages, Signers: []*debrepo.Signer{m.signer}}
	files := r.Files()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files = files
}

// ServeHTTP implements http.Handler.
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	content, ok := m.files[r.URL.Path[1:]]
	m.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, r.URL.Path, time.Time{}, bytes.NewReader(content))
}

// Key is the certificate that the repository's index is signed by.
func (m *Mirror) Key() []byte { return m.signer.Public() }

// Source is the line of sources.list(5) for a guest, or for this machine.
func (m *Mirror) Source(key string, guest bool) string {
	host := "127.0.0.1"
	if guest {
		host = "10.0.2.2" // this machine, to a guest
	}
	return fmt.Sprintf("deb [signed-by=%s] http://%s:%d %s main\n", key, host, m.port, mirrorSuite)
}

// WriteRoot makes a directory whose apt uses the repository, and no other.
func (m *Mirror) WriteRoot(root string) error {
	dir := filepath.Join(root, "etc/apt")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, MirrorKey), m.Key(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "sources.list"), []byte(m.Source(MirrorKey, false)), 0o644)
}

// Close ends the service.
func (m *Mirror) Close() error { return m.server.Close() }
