export const help = `millrace batch IN --out OUT   answer a file of requests, paced and resumable
millrace doctor URL         examine a running Millrace gateway
millrace --version

millrace batch --help and millrace doctor --help list their options.
`

export const batchHelp = `millrace batch IN --out OUT [options]

Sends each request of IN, a batch file in OpenAI's or Anthropic's format (- for stdin), and writes the results to OUT
in the same format. A line of IN:

{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"…","messages":[{"role":"user","content":"Hi"}]}}

What is done is kept in OUT.journal, so that a run that was stopped goes on with --resume.

  --out FILE           results; a file that is there is not written over without --resume or --force
  --errors FILE        results of failed items, apart from the others
  --concurrency N      requests at a time (16, at most 10000)
  --resume             go on where the last run stopped; nothing that was answered is sent again
  --retry-failed       with --resume: run failed items again
  --force              begin anew, over what is there
  --format NAME        openai or anthropic (by the first line)
  --order NAME         completion or input (completion)
  --rpm N, --tpm N     requests and tokens a minute, at most; what the provider says of its limits is heeded anyway
  --timeout SECONDS    of an item, its attempts included (600)
  --grace SECONDS      for running requests after Ctrl-C (30)
  --max-attempts N     of a request that fails; waits for rate limits do not count (3)
  --base-url URL       any compatible server (https://api.openai.com, https://api.anthropic.com)
  --allow-insecure     plain http to another machine
  --api-key-env NAME   the variable that holds the key (OPENAI_API_KEY, ANTHROPIC_API_KEY); a server of your own needs none
  --header 'NAME: V'   a further header; may be repeated
  --quiet              no progress
  --json-progress      progress as a JSON object a second
  --dry-run            check the file, send nothing

Exit codes: 0 all succeeded, 1 some items failed, 2 the command or the input is wrong, 3 stopped before the end,
130 by Ctrl-C.
`

export const doctorHelp = `millrace doctor URL [options]

Drives a running Millrace gateway and tells, with the figure that proves it, whether connections are pooled, the cache works,
tokens are saved, answers stream, memory stays flat, and metrics are tracked. What it sends is told first. The gateway may be
in use meanwhile; it must be one replica, not a balancer.

  --token-env NAME     the variable that holds the operator's token (MILLRACE_TOKEN); a gateway without one needs none
  --only NAMES         of pooling, cache, tokens, streaming, memory, metrics, with commas between
  --model NAME         to ask for (what the gateway says)
  --calls N            in the row by which pooling is judged (20, at most 1000)
  --prompt-tokens N    of the talk that must lose messages; more than MILLRACE_CONTEXT_WINDOW (20000, at most 150000)
  --timeout SECONDS    of each request (60)
  --budget SECONDS     of each check, which has failed when it needs longer (120)
  --yes                do not ask before calls are sent to a gateway on another machine
  --allow-insecure     plain http to another machine
  --json               the result as one JSON object
  --quiet              only what failed

Exit codes: 0 all passed, 1 something failed, 2 the command is wrong, or the gateway cannot be reached or refuses the token.
`
