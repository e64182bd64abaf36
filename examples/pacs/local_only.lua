-- Asked by Orthanc before each HTTP request. A web page whose name points to this computer comes under that name, and
-- a page of another site names itself.
function IncomingHttpRequestFilter(method, uri, ip, username, headers)
   local host, page = headers['host'] or '', headers['origin']
   local here = host:match('^127%.0%.0%.1:?%d*$') or host:match('^localhost:?%d*$')
   return here ~= nil and (page == nil or page == 'http://' .. host)
end
