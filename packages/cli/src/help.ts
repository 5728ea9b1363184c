export const help = `millrace batch IN --out OUT   answer a file of requests, paced and resumable
millrace --version

millrace batch --help lists its options.
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
