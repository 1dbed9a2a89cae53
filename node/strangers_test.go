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
	"slices"
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
	text := strings.Replace(string(b), "plain = false\n", "plain = false\n"+config, 1) + "\n[store]\ncache-mib = 128\n"
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

// TestBombsAtTheDoor sends what unpacks to much: packed bodies of under a megabyte
// together, and bodies as they are whose parts take fifty times their size.
func TestBombsAtTheDoor(t *testing.T) {
	for name, send := range map[string]func(s *flood.Stranger, ctx context.Context) (int, string, error){
		"packed": func() func(*flood.Stranger, context.Context) (int, string, error) {
			packed := flood.Packed(flood.Operations(4<<20 - 16))
			return func(s *flood.Stranger, ctx context.Context) (int, string, error) { return s.Bomb(ctx, packed) }
		}(),
		"as it is": func() func(*flood.Stranger, context.Context) (int, string, error) {
			body := flood.Operations(4<<20 - 16)
			return func(s *flood.Stranger, ctx context.Context) (int, string, error) { return s.Large(ctx, body) }
		}(),
		"as long as may be": func() func(*flood.Stranger, context.Context) (int, string, error) {
			body := flood.Operations(7<<18 - 16)
			return func(s *flood.Stranger, ctx context.Context) (int, string, error) { return s.Large(ctx, body) }
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			b := besiege(t, "")
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			s := flood.New(b.contact, netip.Addr{})
			defer s.Close()
			at(16, func(int) { _, _, _ = send(s, ctx) }) // a node that falls answers nobody
			b.holds("sixteen bombs, " + name)
			code, answer, err := send(s, ctx)
			t.Logf("one more: %d %.300q %v", code, answer, err)
			if code == 200 || err != nil {
				t.Errorf("one more: %d %.300q %v", code, answer, err)
			}
		})
	}
}

// TestIdleStreams has one address hold as many waiting Tails as it gets, over seven
// connections: more than there may be requests of all. Others are answered, and those that
// are held are few.
func TestIdleStreams(t *testing.T) {
	b := besiege(t, "")
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cl := b.client("") // it has its connection before
	if _, err := cl.Put(ctx, "kv/a", []byte("a")); err != nil {
		t.Fatal(err)
	}
	hold, end := context.WithTimeout(ctx, 15*time.Second)
	defer end()
	var refused atomic.Int64
	var wg sync.WaitGroup
	var strangers []*flood.Stranger
	const each, connections = 2350, 7
	for range connections {
		s := flood.New(b.contact, netip.MustParseAddr("127.0.1.1"))
		s.OneConnection()
		strangers = append(strangers, s)
		for range each {
			wg.Go(func() {
				if err := s.Tail(hold); hold.Err() == nil && err != nil {
					refused.Add(1)
				}
			})
		}
	}
	read := 0
	for hold.Err() == nil {
		if _, err := cl.Read(ctx, false, "kv/a"); err != nil {
			t.Errorf("a read beside them: %v", err)
		}
		read++
	}
	wg.Wait()
	b.holds(fmt.Sprintf("%d waiting streams, of which %d were refused, and %d reads beside them", each*connections, refused.Load(), read))
	if read < 100 {
		t.Errorf("%d reads were answered in %v", read, 15*time.Second)
	}
	if refused.Load() == 0 { // those that were not wait for a stream of the few connections that the address has
		t.Error("none was refused")
	}
	for _, s := range strangers {
		s.Close()
	}
}

// TestDuplicateReceipts asks for the receipt of one large entry, 256 times in a request.
func TestDuplicateReceipts(t *testing.T) {
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

// TestFloodFromManyAddresses has 64 addresses do all that strangers may think of at once, for
// ten seconds: the node takes no more memory than it may, refuses nobody who is known by a
// key, and names the limits and to whom it applied them.
func TestFloodFromManyAddresses(t *testing.T) {
	b := besiege(t, "")
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	pair, err := nodeCertificate(b.nodes[0].dir)
	if err != nil {
		t.Fatal(err)
	}
	known, err := client.Open(b.file, b.digest, client.Options{Certificate: &pair, Attempt: 20 * time.Second}) // as a node would
	if err != nil {
		t.Fatal(err)
	}
	defer known.Close()
	out, err := known.Put(ctx, "kv/large", bytes.Repeat([]byte("x"), 500<<10))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := known.Receipt(ctx, out.GetLeaf()); err != nil {
		t.Fatal(err)
	}
	hold, end := context.WithTimeout(ctx, 10*time.Second)
	defer end()
	packed, long := flood.Packed(flood.Operations(4<<20-16)), flood.Operations(7<<18-16)
	beats := []func(s *flood.Stranger){
		func(s *flood.Stranger) { _, _, _ = s.Bomb(hold, packed) },
		func(s *flood.Stranger) { _, _, _ = s.Large(hold, long) },
		func(s *flood.Stranger) { _ = s.Tail(hold) },
		func(s *flood.Stranger) { _, _, _ = s.Slow(hold, 60<<10, 4<<10, 100*time.Millisecond) },
		func(s *flood.Stranger) { _, _, _ = s.Receipts(hold, out.GetLeaf(), 256) },
		func(s *flood.Stranger) { _, _, _ = s.Receipts(hold, out.GetLeaf(), 1) },
		func(s *flood.Stranger) { _ = s.Handshake(hold) },
		func(s *flood.Stranger) { _ = s.Silent(hold) },
		func(s *flood.Stranger) { _ = s.Object(hold, []byte(rand.Text())) },
	}
	var wg sync.WaitGroup
	for _, from := range flood.Addresses(64) {
		for _, beat := range beats {
			s := flood.New(b.contact, from)
			defer s.Close()
			for range 2 {
				wg.Go(func() {
					for hold.Err() == nil {
						beat(s)
						select { // strangers have not the processors of this machine
						case <-time.After(100 * time.Millisecond):
						case <-hold.Done():
						}
					}
				})
			}
		}
	}
	var took []time.Duration
	for hold.Err() == nil {
		began := time.Now()
		if _, err := known.Put(ctx, "kv/a", []byte("a")); err != nil {
			t.Errorf("who is known is refused: %v", err)
			break
		}
		took = append(took, time.Since(began))
	}
	wg.Wait()
	if len(took) == 0 {
		t.Fatal("no transaction of who is known was done")
	}
	slices.Sort(took) // how long they take, make bench-flood measures: here the flood has the same processors
	b.holds(fmt.Sprintf("a flood from 64 addresses, beside %d transactions, most %v", len(took), took[len(took)-1]))
	said, err := os.ReadFile(b.nodes[0].log())
	if err != nil || strings.Count(string(said), `msg="limit applied" to=strangers from=127.0.1.`) == 0 {
		t.Errorf("the node names no limit that it applied: %v", err)
	}
}
