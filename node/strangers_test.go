package node_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/flood"
	"github.com/keystead/keystead/node"
)

// memoryEnv bounds what memory the kernel gives a node, in MiB.
const memoryEnv = "KEYSTEAD_TEST_MEMORY"

// Memory of a node under attack, in MiB.
const (
	mostAbove  = 512 // that strangers may take, above what it has when idle
	mostMemory = 1280
)

// limitMemory has the kernel bound this process.
func limitMemory(mib string) error {
	n, err := strconv.ParseUint(mib, 10, 32)
	if err != nil {
		return err
	}
	return syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: n << 20, Max: n << 20})
}

// besieged is a domain of one node whose memory is bounded, as a stranger finds it.
type besieged struct {
	*cluster
	contact client.Contact
	idle    int // MiB
}

func besiege(t *testing.T, config string) *besieged {
	t.Helper()
	c := found(t, 1, loopback)
	p := c.nodes[0]
	path := filepath.Join(p.dir, node.ConfigFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), "plain = false\n", "plain = false\n"+config, 1)
	text = strings.Replace(text, "[store]\n", "[store]\ncache-mib = 128\n", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.env = append(p.env, fmt.Sprintf("%s=%d", memoryEnv, mostMemory))
	c.startAll()
	c.whole(0)
	to, err := client.OpenContact(c.file.Contacts[0])
	if err != nil {
		t.Fatal(err)
	}
	out := &besieged{cluster: c, contact: to}
	out.forget()
	out.idle = out.peak()
	return out
}

// forget has the kernel count the node's peak anew (proc(5), clear_refs).
func (b *besieged) forget() {
	b.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", b.nodes[0].cmd.Process.Pid), []byte("5"), 0); err != nil {
		b.t.Fatal(err)
	}
}

// peak is the most memory that the node had since, in MiB.
func (b *besieged) peak() int {
	b.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.nodes[0].cmd.Process.Pid))
	if err != nil {
		b.t.Fatal(err)
	}
	_, line, ok := strings.Cut(string(status), "VmHWM:")
	if !ok {
		b.t.Fatal("the node is gone")
	}
	kib, err := strconv.Atoi(strings.Fields(line)[0])
	if err != nil {
		b.t.Fatal(err)
	}
	return kib >> 10
}

// holds demands that the node is there, answers, and took no more than it may.
func (b *besieged) holds(what string) {
	b.t.Helper()
	select {
	case err := <-b.nodes[0].ended:
		b.nodes[0].ended <- err
		b.t.Fatalf("%s: the node ended: %v", what, err)
	default:
	}
	peak := b.peak()
	b.t.Logf("%s: %d MiB above the %d of an idle node", what, peak-b.idle, b.idle)
	if peak-b.idle > mostAbove {
		b.t.Errorf("%s took %d MiB above the %d of an idle node, at most %d are allowed", what, peak-b.idle, b.idle, mostAbove)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := b.client("").Status(ctx); err != nil {
		b.t.Errorf("%s: the node does not answer: %v", what, err)
	}
}

// at has so many do something at a time, each once, and waits for them.
func at(many int, do func(i int)) {
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() { do(i) })
	}
	wg.Wait()
}

// TestDuplicateReceipts asks for the receipt of one large entry, 256 times in a request.
func TestDuplicateReceipts(t *testing.T) {
	t.Parallel()
	b := besiege(t, "")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := b.client("").Put(ctx, "kv/large", bytes.Repeat([]byte("x"), 500<<10))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.client("").Receipt(ctx, out.GetLeaf()); err != nil {
		t.Fatal(err)
	}
	s := flood.New(b.contact, netip.Addr{})
	defer s.Close()
	at(8, func(int) { _, _, _ = s.Receipts(ctx, out.GetLeaf(), 256) })
	b.holds("eight requests for one receipt 256 times")
	code, answer, err := s.Receipts(ctx, out.GetLeaf(), 2)
	if code == 200 || !strings.Contains(answer, "malformed") {
		t.Errorf("a receipt twice: %d %.300q %v", code, answer, err)
	}
}

// TestManyObjects hands in as many small objects as the node takes from one address.
func TestManyObjects(t *testing.T) {
	t.Parallel()
	b := besiege(t, "")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s := flood.New(b.contact, netip.MustParseAddr("127.0.1.1"))
	defer s.Close()
	var taken, refused atomic.Int64
	stop := time.Now().Add(14 * time.Second)
	at(32, func(i int) {
		for n := 0; time.Now().Before(stop); n++ {
			if err := s.Object(ctx, fmt.Appendf(nil, "%d %d", i, n)); err == nil {
				taken.Add(1)
			} else {
				refused.Add(1)
			}
		}
	})
	files, err := os.ReadDir(filepath.Join(b.nodes[0].dir, "objects", "pending"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d taken, %d refused, %d files", taken.Load(), refused.Load(), len(files))
	if taken.Load() > 1500 || refused.Load() == 0 || len(files) > 1500 {
		t.Errorf("%d objects were taken from one address in 14 s, %d refused; %d files", taken.Load(), refused.Load(), len(files))
	}
	b.holds("many small objects")
}

// nodeCertificate is a certificate with the TLS key of a node's directory.
func nodeCertificate(dir string) (tls.Certificate, error) {
	text, err := os.ReadFile(filepath.Join(dir, "tls.pem"))
	if err != nil {
		return tls.Certificate{}, err
	}
	block, _ := pem.Decode(text)
	secret, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, secret.(crypto.Signer).Public(), secret)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: secret}, err
}
