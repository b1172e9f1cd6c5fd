// SPDX-License-Identifier: Apache-2.0

package report_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// probe uses the page as a person does and leaves what it saw in the title.
const probe = `<script>
"use strict";
(async function () {
  const seen = { errors: [] };
  window.addEventListener("error", (e) => seen.errors.push(String(e.message)));
  const frame = () => new Promise((done) => setTimeout(done, 300));
  const count = () => document.querySelectorAll("#panel-0 rect.task").length;
  const first = () => document.querySelector("#panel-0 rect.task");
  const width = () => Number(first().getAttribute("width"));
  await frame();
  document.getElementById("all").click();
  await frame();
  seen.all = count();
  seen.other = document.querySelectorAll("#panel-1 rect.task").length;
  seen.width = width();
  const svg = document.getElementById("panel-0"), box = svg.getBoundingClientRect();
  svg.dispatchEvent(new WheelEvent("wheel", { deltaY: -100, clientX: box.left + 105, clientY: box.top + 10, cancelable: true }));
  await frame();
  seen.zoomed = width();
  seen.zoomedCount = count();
  const bar = first().getBoundingClientRect();
  first().dispatchEvent(new PointerEvent("pointermove", { clientX: bar.left + 3, clientY: bar.top + 3, bubbles: true }));
  const tip = document.getElementById("tip");
  seen.tip = tip.hidden ? "" : tip.textContent;
  document.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  await frame();
  seen.moved = first().getAttribute("width") !== String(seen.zoomed);
  document.dispatchEvent(new KeyboardEvent("keydown", { key: "0" }));
  await frame();
  seen.back = count();
  document.title = "seen " + JSON.stringify(seen);
})();
</script>`

// TestTimelineInABrowser opens the page in headless Chromium and zooms, points
// and moves. It is skipped where there is no Chromium.
func TestTimelineInABrowser(t *testing.T) {
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Skip("no Chromium on this machine (Debian package chromium)")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "timeline.html")
	html := strings.Replace(render(t, timeline(t, 3)), "</body>", probe+"</body>", 1)
	if err := os.WriteFile(path, []byte(html), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--user-data-dir="+filepath.Join(dir, "profile"),
		"--window-size=1200,800", "--virtual-time-budget=10000", "--dump-dom", "file://"+path)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	m := regexp.MustCompile(`<title>seen (.*)</title>`).FindStringSubmatch(string(out))
	if m == nil {
		t.Fatalf("the page's script did not finish:\n%.2000s", out)
	}
	var seen struct {
		Errors                        []string
		All, Other, ZoomedCount, Back int
		Width, Zoomed                 float64
		Tip                           string
		Moved                         bool
	}
	if err := json.Unmarshal([]byte(m[1]), &seen); err != nil {
		t.Fatal(err)
	}
	// 3 layers of 2 micro-batches: attention and shared experts, and per
	// segment 3 tasks.
	if want := 3 * 2 * (2 + 2*3); seen.All != want || seen.Back != want || seen.Other != 3*2*(2+3) {
		t.Errorf("%d, %d after a reset, and %d bars are drawn; want %d, %d and %d", seen.All, seen.Back, seen.Other, want, want, 3*2*5)
	}
	if len(seen.Errors) > 0 || !(seen.Zoomed > 1.1*seen.Width) || seen.ZoomedCount >= seen.All || !seen.Moved {
		t.Errorf("zooming or moving did not work: %+v", seen)
	}
	if !strings.Contains(seen.Tip, "Attention\nlayer 0, micro-batch 0\n0.000 to 3.000 ms") {
		t.Errorf("pointing at the first bar shows %q", seen.Tip)
	}
}
