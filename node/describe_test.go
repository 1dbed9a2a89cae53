package node_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"

	"github.com/keystead/keystead/client"
)

// TestToolsAsk has tools ask a node what every gRPC server is asked: whether it serves,
// which services it has, and what their messages are. A stopped majority serves no more.
func TestToolsAsk(t *testing.T) {
	t.Parallel()
	c := found(t, 2, loopback)
	c.startAll()
	c.whole(0, 1)
	own, err := client.OpenContact(c.file.Contacts[0])
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: client.PinnedTLS(own.TLS, nil), ForceAttemptHTTP2: true}, Timeout: patience}
	check := func(service string) (int, string) {
		r, err := h.Post(own.API+"/grpc.health.v1.Health/Check", "application/json", strings.NewReader(`{"service":"`+service+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(b)
	}
	for _, service := range []string{"", "keystead.v1.LedgerService"} {
		if code, said := check(service); code != 200 || !strings.Contains(said, `STATUS_SERVING"`) {
			t.Errorf("health of %q: %d %s", service, code, said)
		}
	}
	if code, said := check("keystead.v1.Frob"); code != 404 {
		t.Errorf("health of what is not there: %d %s", code, said)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream := grpcreflect.NewClient(h, own.API, connect.WithGRPC()).NewStream(ctx)
	names, err := stream.ListServices()
	if err != nil || !slices.Contains(names, "keystead.v1.HostService") || !slices.Contains(names, "grpc.health.v1.Health") {
		t.Errorf("services: %v, %v", names, err)
	}
	files, err := stream.FileContainingSymbol("keystead.v1.LedgerService")
	if err != nil || len(files) == 0 {
		t.Errorf("%d files describe the ledger's service, %v", len(files), err)
	}
	if _, err := stream.Close(); err != nil {
		t.Error(err)
	}
	if err := c.end(1, syscall.SIGKILL); err != nil && !strings.Contains(err.Error(), "killed") {
		t.Fatal(err)
	}
	for {
		code, said := check("")
		if strings.Contains(said, `NOT_SERVING"`) {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("a node without a majority goes on to say that it serves: %d %s", code, said)
		}
	}
}
