/** What a browser shows at `/`: that the gateway runs, and how to call it. */
export function page(model: string, guarded: boolean): string {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Millrace gateway</title>
<style>
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 44rem; margin: 3rem auto; padding: 0 1rem }
pre { overflow: auto; padding: 1rem; border: 1px solid; border-radius: .4rem }
</style>
<h1>Millrace gateway</h1>
<p>It speaks OpenAI's chat API. Point any client at <code>/v1</code>:</p>
<pre>curl <span id="origin"></span>/v1/chat/completions \\
  -H 'content-type: application/json' \\${guarded ? '\n  -H "authorization: Bearer $MILLRACE_TOKEN" \\\\' : ''}
  -d '{"model": "${escapeHtml(model)}", "messages": [{"role": "user", "content": "Hello"}], "stream": true}'</pre>
<p>What it has done so far: ${guarded ? '<code>/v1/stats</code>, and <code>/metrics</code> for Prometheus, with the same header' : '<a href="/v1/stats">/v1/stats</a>, and <a href="/metrics">/metrics</a> for Prometheus'}</p>
<script>document.getElementById('origin').textContent = location.origin</script>
</html>
`
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
}
