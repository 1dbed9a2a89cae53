package collect

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keystead/keystead/evidence"
)

// TestExtend compares a live TPM's registers with the arithmetic of package evidence.
func TestExtend(t *testing.T) {
	tpm := open(t, shared.Socket)
	banks, err := tpm.Banks(ctx)
	if err != nil || len(banks) != 2 {
		t.Fatalf("want two active banks, got %v, %v", banks, err)
	}
	const pcr = 11
	want := make([]evidence.PCRs, len(banks))
	for i, b := range banks {
		if want[i], err = tpm.ReadPCRs(ctx, b, []int{pcr}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 3 {
		digests := map[evidence.Bank][]byte{}
		for i, b := range banks {
			digests[b] = bytes.Repeat([]byte{byte(n + 1)}, b.Size())
			want[i].Extend(pcr, digests[b])
		}
		if err := tpm.Extend(ctx, pcr, digests); err != nil {
			t.Fatal(err)
		}
	}
	for i, b := range banks {
		got, err := tpm.ReadPCRs(ctx, b, []int{pcr})
		if err != nil || !bytes.Equal(got.Value[pcr], want[i].Value[pcr]) {
			t.Errorf("bank %v: want %x, got %x, %v", b, want[i].Value[pcr], got.Value[pcr], err)
		}
	}
	if err := tpm.Extend(ctx, pcr, map[evidence.Bank][]byte{evidence.SHA256: {1}}); err == nil {
		t.Error("a digest of one byte must not be extended")
	}
}

// TestReadAllPCRs needs several commands: a TPM returns eight values at a time.
func TestReadAllPCRs(t *testing.T) {
	tpm := open(t, shared.Socket)
	var all []int
	for i := range evidence.NumPCRs {
		all = append(all, i)
	}
	got, err := tpm.Quote(ctx, QuoteRequest{PCRs: all})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.PCRs) != 2 || len(got.PCRs[0].Value) != 24 || len(got.PCRs[1].Value) != 24 {
		t.Errorf("want 24 registers of 2 banks, got %v", got.PCRs)
	}
	if _, err := tpm.Quote(ctx, QuoteRequest{PCRs: []int{7, 7}, Banks: []evidence.Bank{evidence.SHA384, evidence.SHA384}}); err != nil {
		t.Errorf("naming a bank and a register twice: %v", err)
	}
	if _, err := tpm.Quote(ctx, QuoteRequest{PCRs: []int{24}}); err == nil {
		t.Error("register 24 must be refused")
	}
}

// TestRegistersChange runs quotes through a proxy that extends PCR 10 before the
// first registers are read: a busy machine, made exact.
func TestRegistersChange(t *testing.T) {
	direct := open(t, shared.Socket)
	for _, tc := range []struct {
		name    string
		changes int
		want    string
	}{
		{"settles", 3, ""},
		{"never settles", 1 << 30, "registers changed during each of 16 quotes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			left := tc.changes
			proxied := open(t, proxy(t, shared.Socket, func(command uint32) {
				if command == commandPCRRead && left > 0 {
					left--
					if err := direct.Extend(ctx, 10, map[evidence.Bank][]byte{evidence.SHA256: make([]byte, 32)}); err != nil {
						t.Error(err)
					}
				}
			}))
			_, err := proxied.Quote(ctx, QuoteRequest{})
			var e *Error
			switch {
			case tc.want == "" && (err != nil || left != 0):
				t.Errorf("want a quote after %d changes, got %v with %d changes left", tc.changes, err, left)
			case tc.want != "" && (!errors.As(err, &e) || !strings.Contains(e.Found, tc.want)):
				t.Errorf("want %q, got %v", tc.want, err)
			}
		})
	}
}

const commandPCRRead = 0x17E // TPM_CC_PCR_Read

// proxy passes commands on to socket after telling before of each one's code.
func proxy(t *testing.T, socket string, before func(command uint32)) (path string) {
	t.Helper()
	asked := true // commands and responses take turns
	return listen(t, socket, func(b []byte) {
		if asked {
			before(binary.BigEndian.Uint32(b[6:]))
		}
		asked = !asked
	})
}

// listen passes commands on to socket, and responses back, after telling of each.
func listen(t *testing.T, socket string, hear func([]byte)) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "t-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "proxy")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			pass(t, conn, socket, hear)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return path
}

func pass(t *testing.T, conn net.Conn, socket string, hear func([]byte)) {
	command := make([]byte, 4096)
	n, err := conn.Read(command)
	if err != nil {
		t.Error(err)
		return
	}
	hear(command[:n])
	to, err := net.Dial("unix", socket)
	if err != nil {
		t.Error(err)
		return
	}
	defer to.Close()
	to.Write(command[:n])
	header := make([]byte, 6)
	if _, err := io.ReadFull(to, header); err != nil {
		t.Error(err)
		return
	}
	rest := make([]byte, int(binary.BigEndian.Uint32(header[2:]))-len(header))
	if _, err := io.ReadFull(to, rest); err != nil {
		t.Error(err)
	}
	hear(append(header, rest...))
	conn.Write(append(header, rest...))
}
