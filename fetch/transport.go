package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"time"
)

// What a download may cost.
const (
	maxRedirects = 5
	attempts     = 3
	minRate      = 50 << 10 // bytes/s, on top of the first 30 s
)

var (
	errTooLarge = errors.New("is larger than it may be")
	errAbsent   = errors.New("is not there")
)

// transport gets files by http, https (proxies as the environment says) and file.
type transport struct {
	client http.Client
	pause  time.Duration // after the first attempt; doubled after each further one
}

func newTransport() *transport {
	return &transport{pause: 200 * time.Millisecond, client: http.Client{CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		if via[0].URL.Scheme == "https" && next.URL.Scheme != "https" {
			return errors.New("a redirect from https to " + next.URL.Scheme)
		}
		return nil
	}}}
}

// get returns the file at the address, of at most limit bytes. It tries again after
// a failure of the network or the server, not after an answer.
func (t *transport) get(ctx context.Context, address string, limit int64) ([]byte, error) {
	b, _, err := t.getWithHeader(ctx, address, limit)
	return b, err
}

// getWithHeader is get, and returns the answer's header; nil for scheme file.
func (t *transport) getWithHeader(ctx context.Context, address string, limit int64) (b []byte, header http.Header, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, nil, fmt.Errorf("%s is not an address", redacted(address)) // err itself repeats a password
	}
	if u.Scheme == "file" {
		b, err := readFile(u.Path, limit)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s: %w", redacted(address), errAbsent)
		}
		return b, nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, nil, fmt.Errorf("%s: scheme %q is not one of http, https, file", redacted(address), u.Scheme)
	}
	for n := range attempts {
		if n > 0 {
			select {
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			case <-time.After(t.pause << (n - 1)):
			}
		}
		var again bool
		if b, header, again, err = t.once(ctx, address, limit); err == nil || !again || ctx.Err() != nil {
			break
		}
	}
	return b, header, err
}

func (t *transport) once(ctx context.Context, address string, limit int64) (b []byte, header http.Header, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second+time.Duration(limit/minRate)*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, false, err
	}
	req.Header.Set("User-Agent", "keystead")
	req.Header.Set("Accept-Encoding", "identity") // the file as it is, which the digest is of
	res, err := t.client.Do(req)
	if err != nil {
		return nil, nil, true, err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotFound {
		return nil, nil, false, fmt.Errorf("%s: %w", redacted(address), errAbsent)
	}
	if res.StatusCode != http.StatusOK {
		return nil, nil, res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests, fmt.Errorf("%s: answers %s", redacted(address), res.Status)
	}
	b, err = readAll(res.Body, limit)
	if err != nil {
		err = fmt.Errorf("%s: %w", redacted(address), err)
	}
	return b, res.Header, !errors.Is(err, errTooLarge), err
}

// readAll reads at most limit bytes; more are an error.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: over %d bytes", errTooLarge, limit)
	}
	return b, err
}
