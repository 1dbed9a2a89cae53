package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/keystead/keystead"
	appv1 "github.com/keystead/keystead/api/app/v1"
	spiffev1 "github.com/keystead/keystead/api/spiffe/v1"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/evidence/process"
)

// Identify gives an SVID for two seconds, by an authority of the test's.
func (c *court) Identify(ctx context.Context, q *connect.Request[appv1.IdentifyRequest]) (*connect.Response[appv1.IdentifyResponse], error) {
	a, err := c.open(ctx, q.Msg.GetStatement(), app.UseIdentity)
	if err != nil {
		return nil, err
	}
	s := a.Statement()
	if len(s.Keys) != 1 {
		return nil, errors.New("not one key")
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), s.Keys[0].Public)
	if err != nil {
		return nil, err
	}
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), URIs: []*url.URL{{Scheme: "spiffe", Host: "example"}}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true}
	root, err := x509.CreateCertificate(rand.Reader, ca, ca, secret.Public(), secret)
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), URIs: []*url.URL{{Scheme: "spiffe", Host: "example", Path: "/app/" + a.Identity().Name()}}, NotBefore: ca.NotBefore, NotAfter: time.Now().Add(3 * time.Second),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	chain, err := x509.CreateCertificate(rand.Reader, leaf, ca, public, secret)
	return connect.NewResponse(&appv1.IdentifyResponse{Id: "spiffe://example/app/" + a.Identity().Name(), Chain: [][]byte{chain}, Bundle: [][]byte{root}}), err
}

// fetched is what an unmodified client of go-spiffe gets: "svid" the SVID, "rotations N" so many
// updates of it, "bundle" the authorities.
func fetched(ctx context.Context, path, what string) (string, error) {
	where := workloadapi.WithAddr("unix://" + path)
	switch word, n, _ := strings.Cut(what, " "); word {
	case "svid":
		s, err := workloadapi.FetchX509SVID(ctx, where)
		if err != nil {
			return "", err
		}
		return s.ID.String(), nil
	case "rotations":
		source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(where))
		if err != nil {
			return "", err
		}
		defer source.Close()
		for i := '0'; i < rune(n[0]); i++ {
			select {
			case <-source.Updated():
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		s, err := source.GetX509SVID()
		if err != nil {
			return "", err
		}
		return s.ID.String(), nil
	case "bundle":
		set, err := workloadapi.FetchX509Bundles(ctx, where)
		if err != nil {
			return "", err
		}
		b, err := set.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("example"))
		if err != nil {
			return "", err
		}
		return fmt.Sprint(len(b.X509Authorities()), " authority"), nil
	}
	return "", errors.New("what?")
}

// TestWorkloadAPI has an unmodified client of go-spiffe fetch its SVID, follow its rotation and
// fetch bundles, in a signed program; and refuses programs and requests that are none.
func TestWorkloadAPI(t *testing.T) {
	t.Parallel()
	path, by := myself(t)
	d, a := admitted(t, by)
	p := asks(t, a, path)
	for ask, want := range map[string]string{"spiffe svid": "spiffe://example/app/billing", "spiffe rotations 2": "spiffe://example/app/billing", "spiffe bundle": "1 authority"} {
		if got := p.does(ask); got != want {
			t.Errorf("%s: %s, want %s", ask, got, want)
		}
	}
	d.mu.Lock()
	last := d.apps.seen[len(d.apps.seen)-1].Statement()
	d.mu.Unlock()
	if last.Use != app.UseIdentity || last.Level != process.Measured || last.Name() != "billing" {
		t.Errorf("the agent states %+v", last)
	}
	d.set(func() { d.apps.denied = map[keystead.Digest]bool{last.Program.File: true} })
	p.names("a program that was denied", p.does("spiffe svid"), keystead.ReasonAppCertRevoked)

	unsigned, err := fetched(t.Context(), a.cfg.Socket.Path, "svid") // the test itself
	if err == nil || !strings.Contains(err.Error(), string(keystead.ReasonAppUnsigned)) {
		t.Errorf("a program that is not signed: %s, %v", unsigned, err)
	}
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	h := &http.Client{Transport: &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.cfg.Socket.Path)
	}}}
	defer h.CloseIdleConnections()
	s, err := connect.NewClient[spiffev1.X509SVIDRequest, spiffev1.X509SVIDResponse](h, "http://agent/SpiffeWorkloadAPI/FetchX509SVID", connect.WithGRPC()).CallServerStream(t.Context(), connect.NewRequest(&spiffev1.X509SVIDRequest{}))
	if err == nil {
		s.Receive()
		err = s.Err()
	}
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a request without the header: %v", err)
	}
}

// answererEnv makes the test's binary answer what comes on descriptor 3.
const answererEnv = "KEYSTEAD_TEST_ANSWERER"

// byHand asks for an SVID in frames of HTTP/2, and has the PING answered by this process, or by
// a child that is handed the connection.
func byHand(path string, child bool) (string, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	field := func(name, value string) []byte {
		return append(append(append([]byte{0, byte(len(name))}, name...), byte(len(value))), value...)
	}
	const method = "/SpiffeWorkloadAPI/FetchX509SVID"
	headers := slices.Concat([]byte{0x83, 0x86}, append([]byte{0x04, byte(len(method))}, method...), append([]byte{0x01, 5}, "agent"...),
		field("content-type", "application/grpc"), field("te", "trailers"), field("workload.spiffe.io", "true"))
	frame := func(kind, flags, stream byte, payload []byte) []byte {
		return append([]byte{0, 0, byte(len(payload)), kind, flags, 0, 0, 0, stream}, payload...)
	}
	_, err = conn.Write(slices.Concat([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(4, 0, 0, nil), frame(1, 4, 1, headers), frame(0, 1, 1, make([]byte, 5))))
	if err != nil {
		return "", err
	}
	if !child {
		return answers(conn), nil
	}
	f, err := conn.File()
	if err != nil {
		return "", err
	}
	defer f.Close()
	c := exec.Command("/proc/self/exe")
	c.Env, c.ExtraFiles = []string{answererEnv + "=1"}, []*os.File{f}
	out, err := c.Output()
	return string(out), err
}

// answers answers PINGs, and says whether an SVID came.
func answers(conn io.ReadWriter) string {
	for header := make([]byte, 9); ; {
		if _, err := io.ReadFull(conn, header); err != nil {
			return "nothing"
		}
		payload := make([]byte, int(header[0])<<16|int(header[1])<<8|int(header[2]))
		if _, err := io.ReadFull(conn, payload); err != nil {
			return "nothing"
		}
		switch {
		case header[3] == 6 && header[4] == 0:
			header[4] = 1
			_, _ = conn.Write(append(header, payload...))
		case header[3] == 0 && bytes.Contains(payload, []byte("spiffe://")):
			return "an SVID"
		case header[3] == 1 && header[4]&1 != 0, header[3] == 3:
			return "nothing"
		}
	}
}

// TestWorkloadHandedOn has a signed program send its request, be measured, and a child that it
// handed the connection to give the sign of life: nobody gets an SVID. By itself the program does.
func TestWorkloadHandedOn(t *testing.T) {
	t.Parallel()
	path, by := myself(t)
	d, a := admitted(t, by)
	p := asks(t, a, path)
	if got := p.does("byhand self"); got != "an SVID" {
		t.Errorf("the program itself: %s", got)
	}
	if got := p.does("byhand child"); got != "nothing" {
		t.Errorf("a child of the program: %s", got)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.apps.seen); n != 1 {
		t.Errorf("%d statements were made, want one, for the program itself", n)
	}
}
